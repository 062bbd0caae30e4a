"""Converts the detector's types to the service's schemas."""

import hashlib
import json
import platform
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from model.bundle import MANIFEST, Bundle, sha256
from model.detections import Detections
from model.detector import Detector
from model.engines import Engine
from model.transforms import Region
from model.video import Limits
from service import schemas
from service.results import StoredProposals
from service.settings import Settings

# Runtimes of engines and of the person locator, whose versions are reported if they are installed.
_RUNTIMES = ("openvino", "onnxruntime", "onnxruntime-gpu")

UNTRAINED = schemas.Notice(
    code="untrained_model",
    detail="The model of this bundle was never trained: its detections have the form of an answer and no meaning.",
)

SYNTHETIC = schemas.Notice(
    code="trained_on_synthetic_people",
    detail="The model of this bundle was trained on rendered people only: on real people it is worse than its numbers "
    "say, and nobody has measured how much. See the model card.",
)


def make_region(options: schemas.Options) -> Region | None:
    """Convert the region to analyse, if any."""
    return Region(**options.region.model_dump()) if options.region else None


def make_limits(settings: Settings) -> Limits:
    """Make the limits of videos and of decoding from the settings."""
    return Limits(
        max_duration_s=settings.max_duration_s,
        max_pixels=settings.max_pixels,
        max_fps=settings.max_fps,
        max_memory_bytes=settings.decoder_memory_bytes,
        max_cpu_s=settings.decoder_cpu_s,
        max_stall_s=settings.decoder_stall_s,
    )


def make_labels(bundle: Bundle) -> schemas.Labels:
    """Convert both levels of a bundle's taxonomy."""
    taxonomy = bundle.manifest.taxonomy
    bodies = [schemas.Label(**body.model_dump()) for body in taxonomy.bodies]
    actions = [
        schemas.ActionLabel(**action.model_dump(exclude={"body_id"}), body=bodies[action.body_id])
        for action in taxonomy.actions
    ]
    return schemas.Labels(bodies=bodies, actions=actions)


def _make_model_used(bundle: Bundle, engine: Engine) -> schemas.ModelUsed:
    trained_on = bundle.manifest.trained_on
    return schemas.ModelUsed(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        weights_sha256=bundle.weights_sha256,
        engine=engine.name,
        precision=engine.precision,
        trained_on=schemas.TrainedOn(**trained_on.model_dump()) if trained_on else None,
    )


def make_model_card(bundle: Bundle, engine: Engine) -> schemas.ModelCard:
    """Describe bundle and engine for GET /model."""
    manifest = bundle.manifest
    return schemas.ModelCard(
        **_make_model_used(bundle, engine).model_dump(),
        licence=manifest.licence,
        device=engine.device,
        fps=manifest.input.fps,
        window_s=manifest.input.window_frames / manifest.input.fps,
        input_width=manifest.input.width,
        input_height=manifest.input.height,
        metrics=manifest.metrics,
        calibrated=manifest.calibration is not None,
        thresholds=_make_thresholds(bundle),
        labels=make_labels(bundle),
        warnings=make_warnings(bundle),
    )


def _make_thresholds(bundle: Bundle) -> list[float]:
    thresholds = bundle.manifest.thresholds
    return list(thresholds.per_class or [thresholds.default] * len(bundle.manifest.taxonomy.actions))


def make_warnings(bundle: Bundle) -> list[schemas.Notice]:
    """Return the warnings that apply to all results of a bundle."""
    trained_on = bundle.manifest.trained_on
    if trained_on is None:
        return [UNTRAINED]
    return [SYNTHETIC] if trained_on.synthetic else []


def make_stored_proposals(
    detections: Detections, detector: Detector, options: schemas.Options, *, job_id: str | None, video_sha256: str
) -> StoredProposals:
    """Combine the detector's proposals with everything else in a result."""
    bundle, engine, proposals = detector.bundle, detector.engine, detections.proposals
    media = asdict(detections.media)
    del media["analysed_fraction"], media["damaged"]
    context = schemas.Context(
        job_id=job_id,
        media=schemas.Media(sha256=video_sha256, **media),
        model=_make_model_used(bundle, engine),
        settings=options,
        coverage=[schemas.Stretch(**asdict(stretch)) for stretch in detections.coverage],
        partial=any(stretch.status == "damaged" for stretch in detections.coverage),
        warnings=[*make_warnings(bundle), *(schemas.Notice(**asdict(notice)) for notice in detections.notices)],
        labels=make_labels(bundle),
        thresholds=_make_thresholds(bundle),
        reproduction=_make_reproduction(bundle, engine),
    )
    return StoredProposals(proposals.segments, proposals.scores, proposals.labels, context)


def _make_reproduction(bundle: Bundle, engine: Engine) -> schemas.Reproduction:
    manifest = bundle.manifest
    labels = json.dumps(manifest.taxonomy.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return schemas.Reproduction(
        mmad=version("mmad"),
        python=platform.python_version(),
        packages=_get_versions("av", "numpy", *_RUNTIMES, *(["torch"] if engine.name == "torch" else [])),
        bundle_sha256=sha256(bundle.folder / MANIFEST),
        taxonomy_sha256=hashlib.sha256(labels.encode()).hexdigest(),
        device=engine.device,
        decode_fps=manifest.input.fps,
        input_width=manifest.input.width,
        input_height=manifest.input.height,
        window_frames=manifest.input.window_frames,
        overlap_frames=manifest.input.overlap_frames,
        postprocessing=manifest.postprocessing.model_dump(),
        calibrated=manifest.calibration is not None,
    )


def _get_versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
