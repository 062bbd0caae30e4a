"""`mmad serve`, `mmad api` and `mmad worker`: the service on one machine, and its parts for several."""

from pathlib import Path
from typing import Annotated

import structlog
import typer

from mmad import logs
from mmad.commands import keys
from mmad.options import BundleDir, load_bundle, settings_with
from mmad.terminal import failing_on, tell, write

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    bundle: BundleDir = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
) -> None:
    """Run everything on this machine: private Redis, API and workers."""
    from mmad import local
    from mmad.children import StartError

    settings = settings_with(host=host, port=port, bundle=bundle, data_dir=data_dir)
    logs.configure(settings.log_format)
    _tell_of_kubernetes()
    load_bundle(settings.bundle)  # a broken bundle is told of here, not by a worker that dies

    def announce(url: str) -> None:
        tell(f"mmad is ready at {url}   documentation at {url}/docs   Ctrl-C stops it", "bold")

    with failing_on(StartError):
        local.serve(settings, workers, announce)


@app.command()
def api() -> None:
    """Run the HTTP API alone; settings come from MMAD_... variables."""
    from service.app import create_app
    from service.keys import KeysError, check_open
    from service.queue import QueueError, check_redis
    from service.server import serve as serve_http
    from service.store import StoreError

    settings = settings_with()
    logs.configure(settings.log_format)
    _tell_of_kubernetes()
    with failing_on(QueueError, KeysError, StoreError):
        check_open(settings)
        _tell_of_redis(check_redis(settings))
        application = create_app(settings)
    serve_http(application, settings)


@app.command("webhook-secret")
def webhook_secret(
    key_id: Annotated[
        str | None,
        typer.Option("--key", metavar="ID", help="Of the jobs of this key, as its caller needs it."),
    ] = None,
    file: keys.KeysFile = None,
) -> None:
    """Print the secret that messages to callback_url are signed with; made now if there is none."""
    from service.jobs import NOBODY
    from service.keys import KeysError, default_file, find
    from service.signing import secret

    settings = settings_with()
    with failing_on(ValueError, OSError, KeysError):
        owner = find(file or default_file(settings), key_id).id if key_id is not None else NOBODY
        write(secret(settings, owner), None)


@app.command()
def worker() -> None:
    """Run one worker; settings come from MMAD_... variables."""
    from model.errors import DetectorError
    from service.queue import QueueError, check_redis
    from service.settings import Settings
    from service.store import StoreError
    from workers.main import main as work

    settings = settings_with(Settings.model_fields.keys() - {"host", "port"})
    logs.configure(settings.log_format)
    with failing_on(DetectorError, QueueError, StoreError):
        _tell_of_redis(check_redis(settings))
        work(settings, load_bundle(settings.bundle))


def _tell_of_kubernetes() -> None:
    """Warn that MMAD_PORT is a link to a service that Kubernetes has set, and is ignored."""
    from service.settings import DEFAULT_PORT, service_link

    if link := service_link():
        tell(
            f"MMAD_PORT={link} is not read: Kubernetes sets it for a Service called mmad. The port is {DEFAULT_PORT} "
            "unless --port says otherwise; rename the Service or set enableServiceLinks: false to use MMAD_PORT",
            "yellow",
        )


def _tell_of_redis(trouble: str | None) -> None:
    if trouble:
        structlog.get_logger().warning("redis_away", why=trouble)
