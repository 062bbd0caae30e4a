"""`mmad jobs`: list, show, cancel and retry the jobs of a store. Needs no running service."""

import shutil
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column

from mmad.models import Json
from mmad.options import AsJson, load_settings
from mmad.terminal import exit_on, fail, out, print_table, write, write_json

if TYPE_CHECKING:
    from service.jobs import Jobs, Record
    from service.settings import Settings

app = typer.Typer(
    help="List, show, cancel and retry the jobs of a store. Run it as the user that the service runs as.",
    no_args_is_help=True,
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
DataDir = Annotated[Path | None, typer.Option(help="Data directory of the service; MMAD_DATA_DIR by default.")]


@app.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="Only jobs that are queued, running, succeeded, failed or canceled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List jobs of all API keys, newest first."""
    from service.job_schemas import State

    if state is not None and state not in list(State):
        fail(f"--state {state}: known are {', '.join(State)}", status=2)
    jobs, _ = _open(data_dir)
    records = (record for job_id in reversed(jobs.store.names("jobs")) if (record := jobs.read(job_id)))
    selected = islice((record for record in records if state in (None, record.state)), limit)
    now = datetime.now(UTC)
    rows: list[Json] = [
        {
            "id": record.id,
            "state": record.state,
            "age_s": round((now - record.changes[0].at).total_seconds(), 3),
            "attempt": record.attempt,
            "bytes": record.upload.bytes,
            "error": record.error.code if record.error else None,
        }
        for record in selected
    ]
    if as_json:
        write_json({"jobs": rows})
        return
    shown = [row | {"age_s": f"{row['age_s']:.0f} s", "error": row["error"] or ""} for row in rows]
    columns = (Column("id", no_wrap=True), "state", "age", "attempt", "bytes", "error")
    print_table(columns, [tuple(row.values()) for row in shown])


@app.command()
def show(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show a job's record, its files, and whether a worker holds its lease."""
    from service.errors import Problem
    from service.jobs import job_key

    jobs, settings = _open(data_dir)
    with exit_on(Problem):
        record = jobs.get(job_id)
    folder = job_key(record.id)
    files = {entry.key.removeprefix(f"{folder}/"): entry.bytes for entry in jobs.store.entries(folder)}
    document: Json = record.model_dump(mode="json")
    leased = _is_leased(settings, record)
    if as_json:
        write_json({"record": document, "files": files, "leased": leased})
        return
    rows = [(name, value) for name, value in document.items() if name != "changes"]
    for change in document["changes"]:
        rows.append(("change", {name: value for name, value in change.items() if value is not None}))
    rows += [("file", f"{name}, {size} bytes") for name, size in files.items()]
    holders = {True: "by a worker that is alive", False: "by nobody", None: "not known: Redis cannot be asked"}
    print_table([], [*rows, ("held", holders[leased])])


@app.command()
def cancel(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Cancel a job that has not ended; a worker that runs it stops within seconds."""
    from service.errors import Problem

    jobs, _ = _open(data_dir)
    with exit_on(Problem):
        record = jobs.cancel(job_id)
    if as_json:
        write_json(record.model_dump(mode="json"))
        return
    out.print(f"{record.id}: {record.state}")


@app.command()
def retry(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Create a new job from a failed or canceled one, with its video, owner and options, and print its id.

    The old job does not change. The service enqueues the new one within seconds.
    """
    from service.errors import Problem

    jobs, _ = _open(data_dir)
    with exit_on(Problem, OSError):
        copy = _copy_job(jobs, jobs.get(job_id))
    if as_json:
        write_json({"id": copy.id, "made_of": job_id})
        return
    write(copy.id)


def _copy_job(jobs: "Jobs", record: "Record") -> "Record":
    from service.job_schemas import State
    from service.jobs import job_key, new_job_id

    if record.state not in (State.FAILED, State.CANCELED):
        fail(f"the job is {record.state}: only jobs that failed or were canceled can be made anew")
    new_id = new_job_id()
    try:
        with (
            jobs.store.open(job_key(record.id, "video")) as video,
            jobs.store.open_writer(job_key(new_id, "video")) as copy,
        ):
            shutil.copyfileobj(video, copy)
        return jobs.create(new_id, record.upload, record.options, retention_s=record.retention_s, owner=record.owner)
    except KeyError:
        fail(
            "the job's video was removed when the job ended: its caller has to send it again, "
            "with keep_video=true if it shall outlast a failure"
        )
    except OSError:
        jobs.store.delete(job_key(new_id))
        raise


def _open(data_dir: Path | None) -> "tuple[Jobs, Settings]":
    from service.jobs import Jobs
    from service.store import FolderStore, StoreError

    settings = load_settings(data_dir=data_dir)
    if not settings.store_dir.is_dir():
        fail(f"there is no store in {settings.data_dir}: name the service's folder with --data-dir")
    with exit_on(StoreError):
        return Jobs(FolderStore(settings.store_dir)), settings


def _is_leased(settings: "Settings", record: "Record") -> bool | None:
    """Return whether a live worker holds the job's lease; None if Redis cannot be reached."""
    from redis.exceptions import RedisError

    from service.queue import JobQueue, QueueError, connect

    private = settings.data_dir / "redis/redis.sock"  # of mmad serve
    if settings.redis_url is None and private.exists():
        settings = settings.model_copy(update={"redis_url": f"unix://{private}"})
    try:
        queue = JobQueue(connect(settings, retries=0), settings.job_timeout_s)
        return queue.is_leased(record.id, record.attempt)
    except (QueueError, RedisError):
        return None
