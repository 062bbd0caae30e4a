"""The worker process: load the bundle once, say what was loaded, then take jobs until told to stop."""

import logging

import structlog

from model.bundle import Bundle
from model.detector import Detector
from model.engines import load_engine
from service.queue import connect, make_queue
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore
from workers.documents import make_model_card
from workers.lease import ModelWorker
from workers.run import Bench, set_bench

log = structlog.get_logger()

# How often a worker tries Redis anew, up to 2 s apart, before it gives up: about two minutes.
_REDIS_RETRIES = 60


def main(settings: Settings, bundle: Bundle) -> None:
    """Work until SIGTERM or SIGINT; the job at hand is finished first."""
    connection = connect(settings, retries=_REDIS_RETRIES)
    engine = load_engine(bundle, settings.engine, settings.device, settings.data_dir / "cache")
    store = FolderStore(settings.store_dir)
    store.put(MODEL_CARD, make_model_card(bundle, engine).model_dump_json(indent=1).encode())
    set_bench(Bench(Detector(bundle, engine), store, connection, settings))
    worker = ModelWorker(make_queue(connection))
    log.info(
        "worker_ready",
        bundle=bundle.manifest.name,
        engine=engine.name,
        trained=bool(bundle.manifest.trained_on),
    )
    worker.work(logging_level=logging.WARNING)  # type: ignore[arg-type]
    log.info("worker_stopped")
