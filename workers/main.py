"""The worker process: load the bundle once, publish the model card, then run jobs until SIGTERM or SIGINT."""

import logging
import time
from contextlib import closing, suppress

import structlog
from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from model.bundle import Bundle
from model.detector import Detector
from model.engines import load_engine
from model.sandbox.sandbox import make_decoder
from service.queue import connect, make_queue
from service.settings import Settings
from service.store import MODEL_CARD, SANDBOX, FolderStore, StoreError
from workers.heartbeat import ModelWorker
from workers.run import WorkerContext, set_context
from workers.serialization import make_model_card

log = structlog.get_logger()

# Connection retries, up to 2 s apart, before the worker opens a new connection: about two minutes.
_REDIS_RETRIES = 60
_RESTART_DELAY_S = 1.0


def main(settings: Settings, bundle: Bundle) -> None:
    """Run jobs until SIGTERM or SIGINT; the current job is finished, or queued again after MMAD_STOP_GRACE_S."""
    connection = connect(settings, retries=0)
    engine = load_engine(bundle, settings.engine, settings.device, settings.data_dir / "cache")
    store = FolderStore(settings.store_dir)
    decoder = make_decoder(settings.sandbox)
    try:
        store.put(MODEL_CARD, make_model_card(bundle, engine).model_dump_json(indent=1).encode())
        store.put(SANDBOX, decoder.describe().encode())
    except OSError as error:
        decoder.close()
        raise StoreError(f"cannot write in {settings.store_dir} ({error.strerror}): give it room") from error
    context = WorkerContext(Detector(bundle, engine, decoder=decoder), store, connection, settings)
    set_context(context)
    with closing(decoder), context.heartbeat:
        trained = bool(bundle.manifest.trained_on)
        log.info("worker_ready", bundle=bundle.manifest.name, engine=engine.name, trained=trained)
        with suppress(StopRequested):  # may be raised in time.sleep, as rq's signal handlers stay installed
            while not _work(context, settings):
                time.sleep(_RESTART_DELAY_S)
    log.info("worker_stopped")


def _work(context: WorkerContext, settings: Settings) -> bool:
    """Run jobs until the process is asked to stop; False if an error of Redis or rq ended the worker before."""
    with connect(settings, retries=_REDIS_RETRIES) as connection:
        worker = ModelWorker(make_queue(connection), context.request_shutdown)
        try:
            worker.work(logging_level=logging.WARNING)  # type: ignore[arg-type]
        except RedisError as error:
            log.warning("worker_without_redis", error=type(error).__name__)
    return worker.stop_requested
