"""Submit an interview, wait for the signed webhook, write features and a figure. See README.md."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from examples.emotion_app.features import Group, Window, compute, make_groups
from examples.emotion_app.plot import draw
from examples.emotion_app.receiver import Receiver, serve_receiver
from mmad.client import Client, ServiceError
from mmad.models import Result

LIMITS = (
    "Micro-actions are movements. Neither this program nor its model shows that one of them, or many, means an "
    "emotion, a lie, a disorder or fitness for a job. Not for hiring, policing or diagnosis."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status: 0 success, 1 failure, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        secret = _secret(options.secret_file, options.api_key or os.environ.get("MMAD_API_KEY"))
        options.out.mkdir(parents=True, exist_ok=True)
        with Client(options.url, options.api_key) as client:
            result = analyse(client, options, Receiver(secret))
            groups = make_groups(client.labels())
    except (ServiceError, OSError, ValueError, TimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        if isinstance(error, ServiceError) and error.code == "callback_refused":
            sys.stderr.write("for a receiver on this machine, start mmad serve with MMAD_WEBHOOK_ALLOW_PRIVATE=true\n")
        return 1
    windows = compute(result, groups, options.window_s)
    write(result, groups, windows, options.out, options.window_s)
    sys.stdout.write(_table(windows))
    return 0


def analyse(client: Client, options: argparse.Namespace, receiver: Receiver) -> Result:
    """Submit the video and return the result when its webhook has arrived."""
    with serve_receiver(receiver, options.host, options.port, options.listen) as address:
        job = client.submit(options.video, callback_url=address, tag="emotion_app", region=options.region)
        sys.stderr.write(f"job {job.id}; waiting for its message at {address}\n")
        message = receiver.wait(job.id, options.timeout_s)
    sys.stderr.write(f"{message['type']}\n")
    return client.wait(job.id)  # returns at once, as the job has ended; raises JobFailed


def write(result: Result, groups: Sequence[Group], windows: Sequence[Window], folder: Path, window_s: float) -> None:
    """Write features.csv, features.png, and features.json, which also has the model and settings."""
    rows = [_row(window) for window in windows]
    with (folder / "features.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else ["start_s"])
        writer.writeheader()
        writer.writerows(rows)
    trained_on = result.model.trained_on
    document = {
        "job_id": result.job_id,
        "video_sha256": result.media.sha256,
        "model": result.document["model"],
        "settings": result.document["settings"],
        "window_s": window_s,
        "groups": {group.name: sorted(group.codes) for group in groups},
        "windows": [asdict(window) for window in windows],
        "warnings": result.document["warnings"],
        "limits": LIMITS,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "features.json").write_text(text + "\n", encoding="utf-8")
    trained = trained_on.data if trained_on else "nothing: its answers have no meaning"
    note = f"{result.model.bundle} {result.model.version}, trained on {trained}".split(" (")[0]
    draw(result, groups, windows, folder / "features.png", f"{note}. Not for hiring, policing or diagnosis.")


def _row(window: Window) -> dict[str, str]:
    """Format a window as a row; values are empty if nothing was analysed."""
    numbers: dict[str, float | None] = {
        "start_s": window.start_s, "end_s": window.end_s, "analysed_s": window.analysed_s,
    }  # fmt: skip
    for name in ("self_touch", "head", "legs"):
        activity = window.activity[name] if window.activity else None
        numbers[f"{name}_per_min"] = activity.per_min if activity else None
        numbers[f"{name}_share"] = activity.share if activity else None
    numbers |= {"concurrency": window.concurrency, "overlap_share": window.overlap_share}
    return {name: "" if value is None else f"{value:.3f}" for name, value in numbers.items()}


def _table(windows: Sequence[Window]) -> str:
    rows = [_row(window) for window in windows]
    lines = [list(rows[0]), *([*row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + "\n" for line in lines
    )


def _secret(path: Path | None, api_key: str | None) -> str:
    """Return the webhook secret: of the API key or, without a key, from the service's setting or its file."""
    if (secret := os.environ.get("MMAD_WEBHOOK_SECRET")) and path is None:
        return secret
    if path is None and api_key:
        raise ValueError(
            "messages to a key are signed with a secret of its own: set MMAD_WEBHOOK_SECRET, or --secret-file, to what "
            "mmad keys create printed with the key (mmad webhook-secret --key ID prints it again)"
        )
    data_dir = Path(os.environ.get("MMAD_DATA_DIR") or Path.home() / ".local/share/mmad")
    return (path or data_dir / "webhook-secret").read_text().strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.emotion_app", description=__doc__, epilog=LIMITS)
    parser.add_argument("video", type=Path)
    parser.add_argument("--url", help="address of the service; MMAD_URL or this machine by default")
    parser.add_argument("--api-key", help="API key; prefer MMAD_API_KEY, as other users can see command lines")
    parser.add_argument("--out", type=Path, default=Path("features"), help="folder for the features")
    parser.add_argument("--window-s", type=float, default=60.0, help="length of a window in seconds")
    parser.add_argument("--region", help="x,y,width,height as fractions: position of the person, if there are several")
    parser.add_argument("--host", default="127.0.0.1", help="address of the webhook receiver, as seen by the service")
    parser.add_argument("--listen", metavar="HOST", help="address to listen on, if not --host: 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=0, help="port of the receiver; a free one by default")
    parser.add_argument(
        "--secret-file", type=Path, help="file with the key's webhook secret, or the service's; or MMAD_WEBHOOK_SECRET"
    )
    parser.add_argument("--timeout-s", type=float, default=3600.0, help="how long to wait for the webhook")
    return parser


if __name__ == "__main__":
    sys.exit(main())
