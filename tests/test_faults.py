"""The short form of `make faults`: some twenty faults, and no promise broken."""

from pathlib import Path

from model.bundle import Bundle
from tests.faults.campaign import run


def test_every_promise_is_kept(tmp_path: Path, bundle: Bundle) -> None:
    campaign = run(tmp_path, bundle.folder, 20, seed=11, tell=print)
    assert campaign.good, campaign.table()
    assert campaign.faults == 20
    assert campaign.verdict.ends["succeeded"] > 5, campaign.table()
