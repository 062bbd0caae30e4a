"""`make faults` injects faults into a running service under load and prints a table of the outcome."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from mmad.logs import configure
from tests.faults.campaign import run
from tests.faults.kinds import FAULTS, FULL_DISK
from tests.untrained_bundle import make_bundle


def main() -> int:
    """Run a campaign; returns 0 if no accepted job was lost, doubled or wrong, and nothing was left over."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="number of faults (200)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100_000, help="seed of the choice of faults")
    names = [fault.name for fault in (*FAULTS, FULL_DISK)]
    parser.add_argument("--only", choices=names, help="inject only this fault")
    parser.add_argument("--keep", type=Path, help="folder for log and store; by default a temporary one")
    arguments = parser.parse_args()
    configure("text")  # logs to standard error; standard output has only the table
    notify = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731, T201
    notify(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="mmad-faults-") as folder:
        target = arguments.keep or Path(folder)
        bundle = make_bundle(Path(folder) / "bundle")
        campaign = run(target, bundle.folder, arguments.faults, arguments.seed, notify, arguments.only)
    print(campaign.table())  # noqa: T201
    return 0 if campaign.good else 1


if __name__ == "__main__":
    sys.exit(main())
