"""A worker context with a scripted detector."""

from typing import Any

from redis import Redis

from model.bundle import Bundle
from model.detections import CoverageInterval, Detections
from model.detector import Detector
from model.segments import Proposals
from model.video import Media
from service.jobs import Jobs
from service.settings import Settings
from workers.run import WorkerContext

MEDIA = Media(2.0, 640, 480, 60, 30.0, False, 0, 1.0)


class ScriptedDetector(Detector):
    """Returns or raises a given outcome and records its calls."""

    def __init__(self, bundle: Bundle, outcome: Detections | BaseException) -> None:
        from tests.test_detector import WhiteSpotter

        super().__init__(bundle, WhiteSpotter(bundle))
        self.outcome = outcome
        self.calls: list[Any] = []

    def detect(self, file: Any, **options: Any) -> Detections:
        self.calls.append((file.read(), options))
        options["progress"]("detecting", 0.5)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


NO_DETECTIONS = Detections(Proposals.empty(), MEDIA, (CoverageInterval(0, 2, "analysed"),))


def make_context(
    bundle: Bundle, jobs: Jobs, connection: Redis, outcome: Detections | BaseException
) -> tuple[WorkerContext, ScriptedDetector]:
    detector = ScriptedDetector(bundle, outcome)
    return WorkerContext(detector, jobs.store, connection, Settings(max_duration_s=99, max_pixels=1234)), detector
