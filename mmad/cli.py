"""The front door: every command, each importing what it needs when it is called."""

import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from rich.table import Table
from typer.core import TyperGroup

from mmad import detecting, jobs, keys, learning, logs, measuring, research, submitting, synthesis
from mmad.options import (
    AsJson,
    BundleDir,
    Weights,
    load_bundle,
    settings_with,
)
from mmad.terminal import bar, escape_unencodable, failing_on, out, print_table, tell, write

_KEEPS_VIDEOS = ("serve", "api", "worker", "jobs")


class _Commands(TyperGroup):
    """Commands whose errors name the value that was given."""

    def invoke(self, ctx: Any) -> Any:
        """See typer; raises BadParameter."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                given = repr(error.__cause__.errors()[0]["input"])
                words = error.message.removeprefix("Value error, ")
                error.message = words if given in words else f"{given}: {words[:1].lower()}{words[1:]}"
            raise


app = typer.Typer(
    name="mmad",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bundle_app = typer.Typer(help="Look at a bundle.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(detecting.app)
app.add_typer(submitting.app)
app.add_typer(research.app)
app.add_typer(measuring.app)
app.add_typer(synthesis.app)
app.add_typer(learning.app)


def _print_version(asked: bool) -> None:
    if asked:
        write(f"mmad {version('mmad')}", None)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Finds every micro-action in a video of a person: what, when, several at once."""


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


@app.command()
def labels(bundle: BundleDir = None, as_json: AsJson = False) -> None:
    """List the classes of a bundle, both levels."""
    taxonomy = load_bundle(settings_with({"bundle"}, bundle=bundle).bundle).manifest.taxonomy
    if as_json:
        write(json.dumps(taxonomy.model_dump(), ensure_ascii=False, indent=1), None)
        return
    table = Table("id", "code", "action", "body part")
    for action in taxonomy.actions:
        table.add_row(str(action.id), action.code, action.name, taxonomy.bodies[action.body_id].name)
    print_table(table)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint from training.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Bundle folder to make.")],
    weights: Annotated[
        Weights, typer.Option(help="How they are stored; fp16 halves the bundle, computation stays fp32.")
    ] = Weights.FP32,
    locator: Annotated[
        Path | None, typer.Option(help="File of python -m training.locate, to frame people by.")
    ] = None,
) -> None:
    """Make a bundle of a checkpoint: weights, ONNX graph, hashes; and check the engines against torch."""
    from model.errors import DetectorError
    from model.export import Agreement, export_bundle

    def say(agreement: Agreement) -> None:
        out.print(
            f"{agreement.engine}: max abs error against torch {agreement.max_abs_error:.2e}", highlight=False
        )

    with failing_on(DetectorError, OSError):
        bundle = export_bundle(checkpoint, out_dir, say, weights.value, locator)
    out.print(f"{bundle.folder}: {bundle.manifest.name} {bundle.manifest.version}", highlight=False)


@app.command()
def bench(
    clip: Annotated[Path | None, typer.Option(help="Video to use instead of a generated one.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the generated clip.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each, after a warm-up.")] = 5,
    bundle: BundleDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure the whole way here: decoding alone, and every engine installed."""
    import tempfile

    from mmad import bench as benchmark
    from model.errors import DetectorError

    loaded = load_bundle(settings_with({"bundle"}, bundle=bundle).bundle)
    with failing_on(DetectorError, OSError), tempfile.TemporaryDirectory() as folder, bar("bench") as show:
        video = clip or Path(folder) / "generated-1080x1296-30fps.mp4"
        if clip is None:
            benchmark.write_clip(video, seconds=seconds)
        report = benchmark.run(loaded, video, rounds, tell, show)
    if as_json:
        write(json.dumps(report.to_json(), indent=1), None)
        return
    table = Table("", "median s", "min s", "max s", "times real time", "ratio")
    for row in report.rows:
        numbers = (row.median_s, row.min_s, row.max_s, row.times_real_time, row.ratio)
        table.add_row(row.name, *(f"{number:.3g}" for number in numbers))
    print_table(table)
    out.print(
        f"{report.clip}; {report.bundle}; {report.rounds} rounds; {report.machine}, {report.cores} cores",
        highlight=False,
    )


@bundle_app.command("show")
def bundle_show(
    folder: Annotated[Path, typer.Argument(help="Bundle folder.")], as_json: AsJson = False
) -> None:
    """What a bundle is, what it was trained on, how well it does."""
    manifest = load_bundle(folder).manifest
    if as_json:
        write(manifest.to_json().rstrip(), None)
        return
    seen, parts = manifest.input, manifest.architecture
    trained = manifest.trained_on.data if manifest.trained_on else "nothing: its answers have no meaning"
    table = Table(show_header=False)
    for name, value in (
        ("name", f"{manifest.name} {manifest.version}"),
        ("trained on", trained),
        ("licence", manifest.licence),
        ("classes", f"{len(manifest.taxonomy.actions)} actions, {len(manifest.taxonomy.bodies)} body parts"),
        (
            "input",
            f"{seen.width} x {seen.height} at {seen.fps:g} fps, windows of {seen.window_frames} frames",
        ),
        (
            "backbone",
            f"width {parts.backbone.embed_dim}, {parts.backbone.depth} blocks, adapter {parts.adapter.kind}",
        ),
        ("metrics", json.dumps(manifest.metrics)),
        *((name, digest) for name, digest in manifest.files.items()),
    ):
        table.add_row(name, value)
    print_table(table)


@bundle_app.command("verify")
def bundle_verify(folder: Annotated[Path, typer.Argument(help="Bundle folder.")]) -> None:
    """Check a bundle's schema and the hash of every file."""
    bundle = load_bundle(folder)
    out.print(f"{folder}: {bundle.manifest.name} {bundle.manifest.version}, all files fit", highlight=False)


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


def main() -> None:
    """Entry point of the `mmad` command."""
    if sys.argv[1:2] and sys.argv[1] in _KEEPS_VIDEOS:
        os.umask(0o077)  # people's videos are for the service's own eyes
    escape_unencodable()
    logs.configure("text", logging.WARNING)  # services log more, once they have read their settings
    try:
        app()
    except ImportError as error:
        tell(
            f"this command needs more than is installed ({error}): pip install 'mmad[serve]', [synth] for synth, "
            "[train] for training and export",
            "red",
        )
        sys.exit(1)
