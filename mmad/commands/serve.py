"""`mmad serve`, `mmad api` and `mmad worker`: the service on one machine, or its parts on several."""

from pathlib import Path
from typing import Annotated

import structlog
import typer

from mmad import logs
from mmad.commands import keys
from mmad.options import BundleDir, load_bundle, load_settings
from mmad.terminal import exit_on, print_status, write

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    bundle: BundleDir = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for jobs and Redis data.")] = None,
) -> None:
    """Run the whole service on this machine: a private Redis, the API and workers."""
    from mmad import local
    from mmad.children import StartError
    from service.keys import KeysError
    from service.queue import QueueError
    from service.store import StoreError

    settings = load_settings(host=host, port=port, bundle=bundle, data_dir=data_dir)
    logs.configure(settings.log_format)
    _warn_about_service_link()
    load_bundle(settings.bundle)  # report an invalid bundle here, not in a worker

    def announce(url: str) -> None:
        print_status(f"mmad is ready at {url}   documentation at {url}/docs   Ctrl-C stops it", "bold")

    with exit_on(StartError, KeysError, QueueError, StoreError):
        local.serve(settings, workers, announce)


@app.command()
def api() -> None:
    """Run only the HTTP API; settings come from MMAD_... variables."""
    from service.app import create_app
    from service.keys import KeysError, check_exposure
    from service.queue import QueueError, check_redis
    from service.server import serve as serve_http
    from service.store import StoreError

    settings = load_settings()
    logs.configure(settings.log_format)
    _warn_about_service_link()
    with exit_on(QueueError, KeysError, StoreError):
        check_exposure(settings)
        _warn_about_redis(check_redis(settings))
        application = create_app(settings)
    serve_http(application, settings)


@app.command("webhook-secret")
def webhook_secret(
    key_id: Annotated[
        str | None, typer.Option("--key", metavar="ID", help="Secret for the jobs of this API key.")
    ] = None,
    file: keys.KeysFile = None,
) -> None:
    """Print the secret that signs webhooks; it is created if there is none."""
    from service.jobs import ANONYMOUS_OWNER
    from service.keys import KeysError, default_file, find
    from service.signing import load_secret

    settings = load_settings()
    with exit_on(ValueError, OSError, KeysError):
        owner = find(file or default_file(settings), key_id).id if key_id is not None else ANONYMOUS_OWNER
        write(load_secret(settings, owner))


@app.command()
def worker() -> None:
    """Run one worker; settings come from MMAD_... variables."""
    from model.errors import DetectorError
    from service.queue import QueueError, check_redis
    from service.settings import Settings
    from service.store import StoreError
    from workers.main import main as work

    settings = load_settings(Settings.model_fields.keys() - {"host", "port"})
    logs.configure(settings.log_format)
    with exit_on(DetectorError, QueueError, StoreError):
        _warn_about_redis(check_redis(settings))
        work(settings, load_bundle(settings.bundle))


def _warn_about_service_link() -> None:
    """Warn if MMAD_PORT is a service link set by Kubernetes, which is ignored."""
    from service.settings import DEFAULT_PORT, service_link

    if link := service_link():
        print_status(
            f"MMAD_PORT={link} is not read: Kubernetes sets it for a Service called mmad. The port is {DEFAULT_PORT} "
            "unless --port says otherwise; rename the Service or set enableServiceLinks: false to use MMAD_PORT",
            "yellow",
        )


def _warn_about_redis(problem: str | None) -> None:
    if problem:
        structlog.get_logger().warning("redis_away", why=problem)
