"""`mmad submit`: sends a video to a service."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mmad.client import DEFAULT_URL, Client, ServiceError
from mmad.options import AsJson, Format, RegionOption, check_format
from mmad.terminal import exit_on, fail, out, print_result, print_status, progress_bar, write_bytes, write_json

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
    check_format(form, as_json)
    with exit_on(ServiceError, OSError), Client(url, api_key) as client:
        accepted = client.submit(video, region=region)
        if not wait and as_json:
            write_json(accepted.document)
            return
        if not wait:
            # Made from this client's base URL: the service's own link may have another path prefix.
            out.print(f"{accepted.id}\n{url.rstrip('/')}/jobs/{accepted.id}")
            return
        print_status(f"job {accepted.id}")
        with progress_bar(video.name) as progress:
            result = client.wait(accepted.id, lambda job: progress(job.stage or job.state, job.progress))
        if form not in (None, "json"):
            _write_export(client, accepted.id, form, out_path)
        elif as_json or form or out_path:
            write_json(result.document, out_path)
        else:
            print_result(str(video), result.document)


def _write_export(client: Client, job_id: str, form: Format, path: Path | None) -> None:
    """Write an export to a file, or text unchanged to standard output."""
    if path is not None:
        client.export(job_id, form, path)
        return
    with TemporaryDirectory() as folder:
        content = client.export(job_id, form, Path(folder) / "export").read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        fail(f"{form} cannot be printed to a terminal: give --out FILE", status=2)
    write_bytes(content)
