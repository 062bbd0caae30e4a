"""The short form of `make faults`: twenty faults, after which no accepted job is lost, doubled or wrong."""

from pathlib import Path

from model.bundle import Bundle
from tests.faults.campaign import run


def test_no_fault_loses_a_job(tmp_path: Path, bundle: Bundle) -> None:
    campaign = run(tmp_path, bundle.folder, 20, seed=11, notify=print)
    assert campaign.good, campaign.table()
    assert campaign.faults == 20
    assert campaign.verdict.ends["succeeded"] > 5, campaign.table()
