"""Short form of `make faults`: after one fault of each kind, no accepted job is lost, doubled or wrong."""

from pathlib import Path

from model.bundle import Bundle
from tests.faults.campaign import run
from tests.faults.kinds import FAULTS, FULL_DISK


def test_no_fault_loses_a_job(tmp_path: Path, bundle: Bundle) -> None:
    kinds = len((*FAULTS, FULL_DISK))
    campaign = run(tmp_path, bundle.folder, kinds, seed=11, notify=print, callers=2)
    assert campaign.good, campaign.table()
    assert campaign.faults == kinds
    assert campaign.verdict.ends["succeeded"] > 5, campaign.table()
