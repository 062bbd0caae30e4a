"""Faults one after the other while callers work, and what came of it."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.faults.ground import Ground, processes_of, small_disk
from tests.faults.kinds import FULL_DISK, KILL_WORKER, KINDS, Kind
from tests.faults.load import Caller, Ledger, make_clips, undisturbed
from tests.faults.verdict import LEFTOVERS_S, Verdict, judge, look_for_leftovers, wait_for_ends

_CALLERS = 3
# Every so many faults the next comes before the service is ready again.
_HURRIED = 0.2
_ENDS_S = 300.0


@dataclass
class Campaign:
    """What was done, how long it took until the service was ready again, and the verdict."""

    seed: int
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    hurried: int = 0
    never_ready: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    verdict: Verdict = field(default_factory=Verdict)
    small_disk: bool = False

    @property
    def faults(self) -> int:
        """How many there were."""
        return sum(map(len, self.recoveries_s.values()))

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict.good and not self.never_ready

    def table(self) -> str:
        """In Markdown."""
        rows = [
            f"| {name} | {len(seconds)} | {_told(median, seconds)} | {_told(max, seconds)} |"
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
            "", f"{len(verdict.again_s)} jobs lost a worker that was killed; another had them after "
            f"{_told(median, verdict.again_s)} s in the median, {_told(max, verdict.again_s)} s at most",
            "", f"seed {self.seed}; {self.hurried} faults came before the service was ready again; jobs: {ends}",
            *([] if self.small_disk else ["no small disk could be mounted here: Redis was never out of room"]),
            *self.never_ready, *verdict.lost, *verdict.doubled, *verdict.wrong, *verdict.left_over,
        ])  # fmt: skip


def run(
    folder: Path, bundle: Path, faults: int, seed: int, tell: Callable[[str], None], only: str | None = None
) -> Campaign:
    """A campaign on a service of its own.

    Args:
        folder: empty, for all it keeps.
        bundle: what workers load.
        faults: how many.
        seed: of which faults come when, and of what callers do.
        tell: told of each fault.
        only: the name of a kind, for no other.
    """
    shared = _shared_memory()
    campaign, chance, stop = Campaign(seed), random.Random(seed), threading.Event()
    ground = Ground(folder, bundle)
    with ExitStack() as stack:
        campaign.small_disk = stack.enter_context(small_disk(ground.redis_folder))
        ground.start()
        videos = make_clips(folder / "clips")
        answers = undisturbed(ground.url, videos)
        callers = [Caller(ground.url, videos, campaign.ledger, seed + turn, stop) for turn in range(_CALLERS)]
        try:
            for caller in callers:
                caller.start()
            _inflict(campaign, ground, chance, _drawn(campaign, chance, faults, only), tell)
            stop.set()
            for caller in callers:
                caller.join()
                if caller.failure is not None:
                    raise caller.failure
            wait_for_ends(ground, _ENDS_S)
            campaign.verdict = judge(ground, campaign.ledger, answers)
            campaign.verdict.left_over.clear()  # what goes by itself has its time
            look_for_leftovers(ground, campaign.verdict, LEFTOVERS_S)
        finally:
            stop.set()
            status = ground.stop()
    if status != 0:
        campaign.verdict.left_over.append(f"mmad serve ended with status {status}")
    campaign.verdict.left_over += [f"process {pid}" for pid in processes_of(folder)]
    campaign.verdict.left_over += [f"/dev/shm/{name}" for name in _shared_memory() - shared]
    return campaign


def _drawn(campaign: Campaign, chance: random.Random, faults: int, only: str | None) -> list[Kind]:
    """Which faults, in their order."""
    kinds: tuple[Kind, ...] = (*KINDS, FULL_DISK) if campaign.small_disk else KINDS
    kinds = tuple(kind for kind in kinds if only in (None, kind.name))
    # Each comes once at least, where there are so many.
    drawn = chance.sample(kinds, min(faults, len(kinds)))
    drawn += chance.choices(kinds, [kind.weight for kind in kinds], k=faults - len(drawn))
    chance.shuffle(drawn)
    return drawn


def _inflict(
    campaign: Campaign,
    ground: Ground,
    chance: random.Random,
    drawn: list[Kind],
    tell: Callable[[str], None],
) -> None:
    faults = len(drawn)
    for number, kind in enumerate(drawn, 1):
        time.sleep(chance.uniform(0.0, 1.5))
        began_s = time.monotonic()
        if kind is KILL_WORKER:
            campaign.ledger.kills.append(datetime.now(UTC))
        kind.do(ground, chance)
        hurried = chance.random() < _HURRIED and number < faults
        campaign.hurried += hurried
        ready_s = None if hurried else ground.ready_after_s(began_s)
        if ready_s is None and not hurried:
            campaign.never_ready.append(f"fault {number}, {kind.name}: not ready again")
        campaign.recoveries_s.setdefault(kind.name, []).append(-1.0 if ready_s is None else ready_s)
        told = "the next at once" if hurried else f"ready after {ready_s or -1:.1f} s"
        tell(f"{number}/{faults} {kind.name}: {told}; {len(campaign.ledger.accepted)} jobs accepted")


def _told(of: Callable[[list[float]], float], seconds: list[float]) -> str:
    known = [one for one in seconds if one >= 0]
    return f"{of(known):.1f}" if known else "-"


def _shared_memory() -> set[str]:
    """Blocks of this machine that have a name."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
