"""Injects faults one after another while callers use the service, and collects the outcome."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.faults.deployment import Deployment, find_processes, small_disk
from tests.faults.kinds import FAULTS, FULL_DISK, KILL_WORKER, Fault
from tests.faults.load import Caller, Ledger, get_expected_results, make_clips
from tests.faults.verdict import LEFTOVERS_S, Verdict, check_jobs, find_leftovers, wait_for_jobs

# Share of faults that are followed by the next before the service is ready again.
_OVERLAPPING_SHARE = 0.2
_ENDS_S = 300.0


@dataclass
class Campaign:
    """Outcome of a campaign: recovery times in seconds by fault (-1 if not measured), accepted jobs and verdict."""

    seed: int
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    overlapping: int = 0
    never_ready: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    verdict: Verdict = field(default_factory=Verdict)
    small_disk: bool = False

    @property
    def faults(self) -> int:
        """Number of injected faults."""
        return sum(map(len, self.recoveries_s.values()))

    @property
    def good(self) -> bool:
        """Whether the service recovered every time and the verdict is good."""
        return self.verdict.good and not self.never_ready

    def table(self) -> str:
        """Format the outcome as Markdown tables."""
        rows = [
            f"| {name} | {len(seconds)} | {_aggregate(median, seconds)} | {_aggregate(max, seconds)} |"
            for name, seconds in sorted(self.recoveries_s.items(), key=lambda row: -len(row[1]))
        ]
        verdict = self.verdict
        ends = ", ".join(f"{count} {end}" for end, count in verdict.ends.most_common())
        slowest = max((s for row in self.recoveries_s.values() for s in row if s >= 0), default=0.0)
        return "\n".join([
            "| fault | times | ready again, median s | slowest s |", "|---|---|---|---|", *rows, "",
            "| faults | accepted | lost | doubled | wrong | left over | slowest recovery s | slowest job s |",
            "|---|---|---|---|---|---|---|---|",
            f"| {self.faults} | {len(self.ledger.accepted)} | {len(verdict.lost)} | {len(verdict.doubled)} "
            f"| {len(verdict.wrong)} | {len(verdict.left_over)} | {slowest:.1f} | {verdict.slowest_s:.1f} |",
            "", f"{len(verdict.retry_delays_s)} jobs lost a worker that was killed; another had them after "
            f"{_aggregate(median, verdict.retry_delays_s)} s in the median, {_aggregate(max, verdict.retry_delays_s)} s at most",
            "", f"seed {self.seed}; {self.overlapping} faults came before the service was ready again; jobs: {ends}",
            *([] if self.small_disk else ["no small disk could be mounted here: Redis was never out of room"]),
            *self.never_ready, *verdict.lost, *verdict.doubled, *verdict.wrong, *verdict.left_over,
        ])  # fmt: skip


def run(
    folder: Path,
    bundle: Path,
    faults: int,
    seed: int,
    notify: Callable[[str], None],
    only: str | None = None,
    callers: int = 3,
) -> Campaign:
    """Run a campaign on a new service.

    Args:
        folder: empty folder for the service's data.
        bundle: bundle of the workers.
        faults: number of faults.
        seed: seed of the choice of faults and of the callers.
        notify: called with a message after each fault.
        only: name of the only fault to inject.
        callers: number of threads that use the service.
    """
    shared = _shared_memory()
    campaign, chance, stop = Campaign(seed), random.Random(seed), threading.Event()
    deployment = Deployment(folder, bundle)
    with ExitStack() as stack:
        campaign.small_disk = stack.enter_context(small_disk(deployment.redis_folder))
        deployment.start()
        videos = make_clips(folder / "clips")
        expected = get_expected_results(deployment.url, videos)
        threads = [Caller(deployment.url, videos, campaign.ledger, seed + index, stop) for index in range(callers)]
        try:
            for caller in threads:
                caller.start()
            _inject(campaign, deployment, chance, _draw_faults(campaign, chance, faults, only), notify)
            stop.set()
            for caller in threads:
                caller.join()
                if caller.failure is not None:
                    raise caller.failure
            wait_for_jobs(deployment, _ENDS_S)
            campaign.verdict = check_jobs(deployment, campaign.ledger, expected)
            campaign.verdict.left_over.clear()  # may disappear within a grace period, see below
            find_leftovers(deployment, campaign.verdict, LEFTOVERS_S)
        finally:
            stop.set()
            status = deployment.stop()
    if status != 0:
        campaign.verdict.left_over.append(f"mmad serve ended with status {status}")
    campaign.verdict.left_over += [f"process {pid}" for pid in find_processes(folder)]
    campaign.verdict.left_over += [f"/dev/shm/{name}" for name in _shared_memory() - shared]
    return campaign


def _draw_faults(campaign: Campaign, chance: random.Random, faults: int, only: str | None) -> list[Fault]:
    """Choose the faults and their order."""
    candidates: tuple[Fault, ...] = (*FAULTS, FULL_DISK) if campaign.small_disk else FAULTS
    candidates = tuple(fault for fault in candidates if only in (None, fault.name))
    # Each at least once, if there are enough.
    sequence = chance.sample(candidates, min(faults, len(candidates)))
    sequence += chance.choices(candidates, [fault.weight for fault in candidates], k=faults - len(sequence))
    chance.shuffle(sequence)
    return sequence


def _inject(
    campaign: Campaign,
    deployment: Deployment,
    chance: random.Random,
    sequence: list[Fault],
    notify: Callable[[str], None],
) -> None:
    faults = len(sequence)
    for number, fault in enumerate(sequence, 1):
        time.sleep(chance.uniform(0.0, 1.5))
        start_s = time.monotonic()
        if fault is KILL_WORKER:
            campaign.ledger.kills.append(datetime.now(UTC))
        fault.inject(deployment, chance)
        overlapping = chance.random() < _OVERLAPPING_SHARE and number < faults
        campaign.overlapping += overlapping
        ready_s = None if overlapping else deployment.wait_until_ready(start_s)
        if ready_s is None and not overlapping:
            campaign.never_ready.append(f"fault {number}, {fault.name}: not ready again")
        campaign.recoveries_s.setdefault(fault.name, []).append(-1.0 if ready_s is None else ready_s)
        outcome = "the next at once" if overlapping else f"ready after {ready_s or -1:.1f} s"
        notify(f"{number}/{faults} {fault.name}: {outcome}; {len(campaign.ledger.accepted)} jobs accepted")


def _aggregate(function: Callable[[list[float]], float], seconds: list[float]) -> str:
    known = [second for second in seconds if second >= 0]
    return f"{function(known):.1f}" if known else "-"


def _shared_memory() -> set[str]:
    """Return the names of all shared memory blocks of this machine."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
