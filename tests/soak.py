"""`make soak`: mixed load for a while, and whether any process grows."""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

from mmad.logs import configure
from tests.faults.ground import Ground, processes_of
from tests.faults.load import Caller, Ledger, make_clips, undisturbed
from tests.faults.verdict import LEFTOVERS_S, judge, look_for_leftovers, wait_for_ends
from tests.untrained import make_bundle

_EVERY_S = 2.0
# Caches fill and allocators settle in the first part.
_WARM_UP = 0.3
_MIB = 1024 * 1024
# What a process may grow by: a leak of a few kB a job is more than that in half an hour.
MAX_MIB_PER_HOUR = 20.0
MAX_DESCRIPTORS = 2
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Samples:
    """Of one process: when, resident bytes and open descriptors."""

    at_s: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def settled(self) -> "Samples":
        """What came after the warm-up."""
        first = int(len(self.at_s) * _WARM_UP)
        return Samples(self.at_s[first:], self.resident[first:], self.descriptors[first:])

    @property
    def mib_per_hour(self) -> float:
        """The slope of a line through the memory."""
        return linear_regression(self.at_s, self.resident).slope * 3600 / _MIB

    @property
    def more_descriptors(self) -> int:
        """The fewest in the last fifth less the fewest in the first."""
        fifth = max(1, len(self.descriptors) // 5)
        return min(self.descriptors[-fifth:]) - min(self.descriptors[:fifth])


def main() -> int:
    """0 where nothing grew and every promise was kept."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--seed", type=int, default=1, help="of what callers do (1)")
    asked = parser.parse_args()
    configure("text")  # to standard error: the table alone is printed
    with tempfile.TemporaryDirectory(prefix="mmad-soak-") as folder:
        return _soak(Path(folder), asked.minutes * 60, asked.seed)


def _soak(folder: Path, seconds: float, seed: int) -> int:
    ground = Ground(folder / "ground", make_bundle(folder / "bundle").folder)
    ground.folder.mkdir()
    ground.start()
    stop, ledger = threading.Event(), Ledger()
    videos = make_clips(folder / "clips")
    answers = undisturbed(ground.url, videos)
    callers = [Caller(ground.url, videos, ledger, seed + turn, stop) for turn in range(3)]
    for caller in callers:
        caller.start()
    samples = _watch(ground, seconds)
    stop.set()
    for caller in callers:
        caller.join()
        if caller.failure is not None:
            raise caller.failure
    wait_for_ends(ground, 300)
    verdict = judge(ground, ledger, answers)
    verdict.left_over.clear()
    look_for_leftovers(ground, verdict, LEFTOVERS_S)
    ground.stop()
    verdict.left_over += [f"process {pid}" for pid in processes_of(folder)]
    lines = [
        "| process | MiB | MiB an hour after warm-up | descriptors | more of them |",
        "|---|---|---|---|---|",
    ]
    good = verdict.good
    for name, found in samples.items():
        settled = found.settled()
        if len(settled.at_s) < 3:
            lines.append(f"| {name} | it ended | | | |")
            good = False
            continue
        good &= settled.mib_per_hour < MAX_MIB_PER_HOUR and settled.more_descriptors <= MAX_DESCRIPTORS
        lines.append(
            f"| {name} | {settled.resident[-1] / _MIB:.0f} | {settled.mib_per_hour:+.1f} "
            f"| {settled.descriptors[-1]} | {settled.more_descriptors:+d} |"
        )
    ends = ", ".join(f"{count} {end}" for end, count in verdict.ends.most_common())
    lines += ["", f"{seconds / 60:.0f} minutes, {len(ledger.accepted)} jobs: {ends}"]
    lines += [*verdict.lost, *verdict.doubled, *verdict.wrong, *verdict.left_over]
    print("\n".join(lines))  # noqa: T201
    return 0 if good else 1


def _watch(ground: Ground, seconds: float) -> dict[str, Samples]:
    """Samples of all processes that live throughout; what decodes one video comes and goes, and is none of them."""
    named = {f"API {pid}": pid for pid in ground.api()}
    named |= {f"worker {pid}": pid for pid in ground.worker()}
    named |= {f"Redis {pid}": pid for pid in ground.redis()}
    assert ground.process is not None
    named["mmad serve"] = ground.process.pid
    named |= {f"decoders' keeper {pid}": pid for pid in ground.keepers()}
    samples: dict[str, Samples] = defaultdict(Samples)
    began_s = told_s = time.monotonic()
    while (now_s := time.monotonic()) - began_s < seconds:
        for name, pid in named.items():
            _sample(samples[name], pid, now_s)
        if now_s - told_s > 60:
            told_s = now_s
            sizes = ", ".join(f"{name} {one.resident[-1] / _MIB:.0f} MiB" for name, one in samples.items())
            print(f"{(now_s - began_s) / 60:.0f} min: {sizes}", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(_EVERY_S)
    return samples


def _sample(samples: Samples, pid: int, now_s: float) -> None:
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:  # it has ended, which the table tells
        return
    samples.at_s.append(now_s)
    samples.resident.append(resident)
    samples.descriptors.append(descriptors)


if __name__ == "__main__":
    sys.exit(main())
