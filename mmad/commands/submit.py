"""`mmad submit`: sends a video to a service."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mmad.client import DEFAULT_URL, Client, ServiceError
from mmad.models import Accepted, Result
from mmad.options import AsJson, Format, RegionOption
from mmad.terminal import exit_on, fail, out, print_result, print_status, progress_bar, write

app = typer.Typer()


@app.command()
def submit(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    url: Annotated[str, typer.Option(envvar="MMAD_URL", help="Address of the service.")] = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MMAD_API_KEY", help="API key; prefer MMAD_API_KEY, as other users can see command lines."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result.")] = False,
    region: RegionOption = None,
    form: Annotated[Format | None, typer.Option("--format", help="Format of the result; with --wait.")] = None,
    out_path: Annotated[Path | None, typer.Option("--out", help="File to write; with --wait.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send a video to a service."""
    if not wait and (form or out_path):
        raise typer.BadParameter("there is a result to write with --wait only", param_hint="--format, --out")
    if as_json and form not in (None, Format.JSON):
        raise typer.BadParameter(f"--json and --format {form} cannot both be had", param_hint="--format")
    with exit_on(ServiceError, OSError), Client(url, api_key) as client:
        accepted = client.submit(video, region=region)
        if not wait:
            _print_accepted(accepted, url, as_json)
            return
        print_status(f"job {accepted.id}")
        with progress_bar(video.name) as progress:
            result = client.wait(accepted.id, lambda job: progress(job.stage or job.state, job.progress))
        if form in (None, Format.JSON):
            _print_result(video, result, out_path, as_document=as_json or form is not None)
        else:
            _write_export(client, accepted.id, form, out_path)


def _print_accepted(accepted: Accepted, url: str, as_json: bool) -> None:
    if as_json:
        write(_dump(accepted), None)
    else:
        # Made from this client's base URL: the service's own link may have another path prefix.
        out.print(f"{accepted.id}\n{url.rstrip('/')}/jobs/{accepted.id}", highlight=False)


def _print_result(video: Path, result: Result, path: Path | None, *, as_document: bool) -> None:
    if as_document or path is not None:
        write(_dump(result), path)
    else:
        print_result(str(video), result.document)


def _write_export(client: Client, job_id: str, form: Format, path: Path | None) -> None:
    """Write an export to a file, or text unchanged to standard output."""
    if path is not None:
        client.export(job_id, form.value, path)
        return
    with TemporaryDirectory() as folder:
        content = client.export(job_id, form.value, Path(folder) / "export").read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        fail(f"{form.value} cannot be printed to a terminal: give --out FILE", status=2)
    sys.stdout.buffer.write(content)


def _dump(answer: Accepted | Result) -> str:
    return json.dumps(answer.document, ensure_ascii=False, indent=1)
