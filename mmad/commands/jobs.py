"""The jobs of a store, as its operator sees them: mmad jobs list, show, cancel, retry. Needs no running service."""

import json
import shutil
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from mmad.client import Json
from mmad.options import AsJson, settings_with
from mmad.terminal import fail, failing_on, out, print_table, write

if TYPE_CHECKING:
    from service.jobs import Jobs, Record
    from service.settings import Settings

app = typer.Typer(
    help="Look at the jobs of a store, stop them, make failed ones anew. Run it as the user that the service runs as.",
    no_args_is_help=True,
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the service keeps everything; MMAD_DATA_DIR by default.")
]


@app.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="Only jobs that are queued, running, succeeded, failed or canceled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs of all keys, the newest first."""
    from service.job_schemas import State

    if state is not None and state not in list(State):
        fail(f"--state {state}: known are {', '.join(State)}", status=2)
    jobs = _jobs(_settings(data_dir))
    records = (record for job_id in reversed(jobs.store.names("jobs")) if (record := jobs.read(job_id)))
    found = islice((record for record in records if state in (None, record.state)), limit)
    rows = [_row(record, datetime.now(UTC)) for record in found]
    if as_json:
        write(json.dumps({"jobs": rows}, indent=1), None)
        return
    table = Table(Column("id", no_wrap=True, min_width=32), "state", "age", "attempt", "bytes", "error")
    for row in rows:
        age = f"{row['age_s']:.0f} s"
        table.add_row(
            row["id"], row["state"], age, str(row["attempt"]), str(row["bytes"]), row["error"] or ""
        )
    print_table(table)


@app.command()
def show(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show a job's record, its files, and whether a worker has it now."""
    from service.errors import Problem
    from service.jobs import key

    settings = _settings(data_dir)
    jobs = _jobs(settings)
    with failing_on(Problem):
        record = jobs.get(job_id)
    files = {
        entry.key.removeprefix(key(record.id) + "/"): entry.bytes
        for entry in jobs.store.entries(key(record.id))
    }
    told, leased = record.model_dump(mode="json"), _is_leased(settings, record)
    if as_json:
        write(json.dumps({"record": told, "files": files, "leased": leased}, indent=1), None)
        return
    table = Table(show_header=False)
    for name, value in told.items():
        if name != "changes":
            table.add_row(name, _plain(value))
    for change in told["changes"]:
        table.add_row("change", _plain({name: value for name, value in change.items() if value is not None}))
    for name, size in files.items():
        table.add_row("file", f"{name}, {size} bytes")
    known = {True: "by a worker that is alive", False: "by nobody", None: "not known: Redis cannot be asked"}
    table.add_row("held", known[leased])
    print_table(table)


@app.command()
def cancel(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """End a job that has not ended; a worker that runs it lets go of it within seconds."""
    from service.errors import Problem

    with failing_on(Problem):
        record = _jobs(_settings(data_dir)).cancel(job_id)
    if as_json:
        write(record.model_dump_json(indent=1), None)
        return
    out.print(f"{record.id}: {record.state}", highlight=False)


@app.command()
def retry(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a new job of one that failed or was canceled, with its video, owner and options, and print its id.

    States are final: the old job stays as it is. The service puts the new one on the queue within seconds.
    """
    from service.errors import Problem

    jobs = _jobs(_settings(data_dir))
    with failing_on(Problem, OSError):
        made = _made_anew(jobs, jobs.get(job_id))
    if as_json:
        write(json.dumps({"id": made.id, "made_of": job_id}), None)
        return
    write(made.id, None)


def _made_anew(jobs: "Jobs", record: "Record") -> "Record":
    from service.job_schemas import State
    from service.jobs import key, new_job_id

    if record.state not in (State.FAILED, State.CANCELED):
        fail(f"the job is {record.state}: only jobs that failed or were canceled can be made anew")
    made = new_job_id()
    try:
        with (
            jobs.store.open(key(record.id, "video")) as video,
            jobs.store.writing(key(made, "video")) as copy,
        ):
            shutil.copyfileobj(video, copy)
        return jobs.create(
            made, record.upload, record.options, retention_s=record.retention_s, owner=record.owner
        )
    except KeyError:
        fail(
            "the job's video was removed when the job ended: its caller has to send it again, "
            "with keep_video=true if it shall outlast a failure"
        )
    except OSError:
        jobs.store.delete(key(made))
        raise


def _settings(data_dir: Path | None) -> "Settings":
    settings = settings_with(data_dir=data_dir)
    if not settings.store_dir.is_dir():
        fail(f"there is no store in {settings.data_dir}: name the service's folder with --data-dir")
    return settings


def _jobs(settings: "Settings") -> "Jobs":
    from service.jobs import Jobs
    from service.store import FolderStore, StoreError

    with failing_on(StoreError):
        return Jobs(FolderStore(settings.store_dir))


def _row(record: "Record", now: datetime) -> Json:
    return {
        "id": record.id,
        "state": record.state,
        "age_s": round((now - record.changes[0].at).total_seconds(), 3),
        "attempt": record.attempt,
        "bytes": record.upload.bytes,
        "error": record.error.code if record.error else None,
    }


def _is_leased(settings: "Settings", record: "Record") -> bool | None:
    """Whether a worker that is alive has the job; None where Redis cannot tell."""
    from redis.exceptions import RedisError

    from service.queue import JobQueue, QueueError, connect

    private = settings.data_dir / "redis/redis.sock"  # where mmad serve has its own
    if settings.redis_url is None and private.exists():
        settings = settings.model_copy(update={"redis_url": f"unix://{private}"})
    try:
        queue = JobQueue(connect(settings, retries=0), settings.job_timeout_s)
        return queue.is_leased(record.id, record.attempt)
    except (QueueError, RedisError):
        return None


def _plain(value: object) -> str:
    """No markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("[", r"\[")
