"""`make faults`: the service under faults, and a table of what became of its promises."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from mmad.logs import configure
from tests.faults.campaign import run
from tests.faults.kinds import FULL_DISK, KINDS
from tests.untrained import make_bundle


def main() -> int:
    """0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many (200)")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 100_000, help="repeats a choice of faults"
    )
    names = [kind.name for kind in (*KINDS, FULL_DISK)]
    parser.add_argument("--only", choices=names, help="one kind of fault")
    parser.add_argument("--keep", type=Path, help="folder for log and store, which are otherwise removed")
    asked = parser.parse_args()
    configure("text")  # to standard error: the table alone is printed
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731, T201
    say(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="mmad-faults-") as folder:
        place = asked.keep or Path(folder)
        bundle = make_bundle(Path(folder) / "bundle")
        campaign = run(place, bundle.folder, asked.faults, asked.seed, say, asked.only)
    print(campaign.table())  # noqa: T201
    return 0 if campaign.good else 1


if __name__ == "__main__":
    sys.exit(main())
