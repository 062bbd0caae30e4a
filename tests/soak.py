"""`make soak` puts mixed load on a service and checks that no process leaks memory or file descriptors."""

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
from tests.faults.deployment import Deployment, find_processes
from tests.faults.load import Caller, Ledger, get_expected_results, make_clips
from tests.faults.verdict import LEFTOVERS_S, check_jobs, find_leftovers, wait_for_jobs
from tests.untrained_bundle import make_bundle

_EVERY_S = 2.0
# Share of the samples that is ignored: caches fill and allocators settle.
_WARM_UP = 0.3
_MIB = 1024 * 1024
# Limits of growth. A leak of a few kB per job exceeds them within half an hour.
MAX_MIB_PER_HOUR = 20.0
MAX_DESCRIPTORS = 2
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Samples:
    """Samples of one process: times, resident bytes and open descriptors."""

    at_s: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def settled(self) -> "Samples":
        """Return the samples after the warm-up."""
        first = int(len(self.at_s) * _WARM_UP)
        return Samples(self.at_s[first:], self.resident[first:], self.descriptors[first:])

    @property
    def mib_per_hour(self) -> float:
        """Slope of a linear regression of the resident memory."""
        return linear_regression(self.at_s, self.resident).slope * 3600 / _MIB

    @property
    def more_descriptors(self) -> int:
        """Minimum of the last fifth minus minimum of the first fifth."""
        fifth = max(1, len(self.descriptors) // 5)
        return min(self.descriptors[-fifth:]) - min(self.descriptors[:fifth])


def main() -> int:
    """Run the load; returns 0 if no process grew and every accepted job has the right result."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="duration in minutes (30)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the callers (1)")
    arguments = parser.parse_args()
    configure("text")  # logs to standard error; standard output has only the table
    with tempfile.TemporaryDirectory(prefix="mmad-soak-") as folder:
        return _soak(Path(folder), arguments.minutes * 60, arguments.seed)


def _soak(folder: Path, seconds: float, seed: int) -> int:
    deployment = Deployment(folder / "service", make_bundle(folder / "bundle").folder)
    deployment.folder.mkdir()
    deployment.start()
    stop, ledger = threading.Event(), Ledger()
    videos = make_clips(folder / "clips")
    expected = get_expected_results(deployment.url, videos)
    callers = [Caller(deployment.url, videos, ledger, seed + index, stop) for index in range(3)]
    for caller in callers:
        caller.start()
    samples = _watch(deployment, seconds)
    stop.set()
    for caller in callers:
        caller.join()
        if caller.failure is not None:
            raise caller.failure
    wait_for_jobs(deployment, 300)
    verdict = check_jobs(deployment, ledger, expected)
    verdict.left_over.clear()
    find_leftovers(deployment, verdict, LEFTOVERS_S)
    deployment.stop()
    verdict.left_over += [f"process {pid}" for pid in find_processes(folder)]
    lines = ["| process | MiB | MiB an hour after warm-up | descriptors | more of them |", "|---|---|---|---|---|"]
    good = verdict.good
    for name, sampled in samples.items():
        settled = sampled.settled()
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


def _watch(deployment: Deployment, seconds: float) -> dict[str, Samples]:
    """Sample all long-lived processes for some seconds; decoder processes live for one video and are not included."""
    named = {f"API {pid}": pid for pid in deployment.api()}
    named |= {f"worker {pid}": pid for pid in deployment.worker()}
    named |= {f"Redis {pid}": pid for pid in deployment.redis()}
    assert deployment.process is not None
    named["mmad serve"] = deployment.process.pid
    named |= {f"forkserver {pid}": pid for pid in deployment.forkservers()}
    samples: dict[str, Samples] = defaultdict(Samples)
    start_s = printed_s = time.monotonic()
    while (now_s := time.monotonic()) - start_s < seconds:
        for name, pid in named.items():
            _sample(samples[name], pid, now_s)
        if now_s - printed_s > 60:
            printed_s = now_s
            sizes = ", ".join(f"{name} {sampled.resident[-1] / _MIB:.0f} MiB" for name, sampled in samples.items())
            print(f"{(now_s - start_s) / 60:.0f} min: {sizes}", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(_EVERY_S)
    return samples


def _sample(samples: Samples, pid: int, now_s: float) -> None:
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:  # has ended, see the table
        return
    samples.at_s.append(now_s)
    samples.resident.append(resident)
    samples.descriptors.append(descriptors)


if __name__ == "__main__":
    sys.exit(main())
