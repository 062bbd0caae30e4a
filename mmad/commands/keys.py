"""The keys of callers: mmad keys create, list, rotate, revoke."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mmad.client import Json
from mmad.options import AsJson, settings_with
from mmad.terminal import fail, failing_on, out, print_table, tell, write

if TYPE_CHECKING:
    from service.keys import Key

app = typer.Typer(help="Make, renew and revoke the keys of callers.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as mmad keys list shows it.")]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--file", help="File of keys; MMAD_API_KEYS_FILE or keys.json in the data directory by default."
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for you to know it by.")],
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests a minute; MMAD_REQUESTS_PER_MINUTE by default.")
    ] = None,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs not ended at a time; MMAD_MAX_JOBS_PER_KEY by default.")
    ] = None,
    max_stored_bytes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Bytes of videos stored at a time; MMAD_MAX_STORED_BYTES_PER_KEY by default."
        ),
    ] = None,
    file: KeysFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only a hash of it is kept. Its webhook secret goes to standard error."""
    from pydantic import ValidationError

    from service import keys, signing

    settings = settings_with()
    with failing_on(ValueError, OSError):  # before the key: one that is not shown would be of no use
        signing.secret(settings)
    limits = keys.OwnLimits(
        requests_per_minute=requests_per_minute, max_jobs=max_jobs, max_stored_bytes=max_stored_bytes
    )
    path = file or keys.default_file(settings)
    try:
        with failing_on(keys.KeysError):
            made, key = keys.create(path, name, limits)
    except ValidationError as error:
        fail(f"NAME={name!r}: {error.errors()[0]['msg']}", status=2)
    if as_json:
        secret = signing.secret(settings, made.id)
        write(_text({"key": key, **_shown(made), "file": str(path), "webhook_secret": secret}), None)
        return
    tell(f"key {made.id} of {made.name} in {path}; it is not shown again:")
    write(key, None)
    tell(f"messages to the callback_url of its jobs are signed with (made from {signing.source(settings)}):")
    tell(signing.secret(settings, made.id))
    if settings.api_keys_file is None:
        tell(f"services that listen on this machine alone ask for keys only with MMAD_API_KEYS_FILE={path}")


@app.command("list")
def list_keys(file: KeysFile = None, as_json: AsJson = False) -> None:
    """Show all keys, also revoked ones."""
    from service import keys

    path = _path(file)
    with failing_on(keys.KeysError):
        found = keys.read(path).keys
    if as_json:
        write(_text({"file": str(path), "keys": [_shown(key) for key in found]}), None)
        return
    if not found:
        tell(f"no keys in {path}: mmad keys create NAME makes one")
        return
    table = Table("id", "name", "created", "revoked", "requests a minute", "jobs", "stored bytes")
    for key in found:
        limits = (key.limits.requests_per_minute, key.limits.max_jobs, key.limits.max_stored_bytes)
        table.add_row(
            key.id,
            key.name.replace("[", r"\["),  # no markup
            f"{key.created_at:%Y-%m-%d}",
            f"{key.revoked_at:%Y-%m-%d}" if key.revoked_at else "",
            *("" if limit is None else str(limit) for limit in limits),
        )
    print_table(table)


@app.command()
def rotate(key_id: KeyId, file: KeysFile = None, as_json: AsJson = False) -> None:
    """Print a new secret for a key, this once; running services refuse the old one from the next request on.

    Jobs, limits and webhook secret stay the key's.
    """
    from service import keys

    path = _path(file)
    with failing_on(keys.KeysError):
        renewed, key = keys.rotate(path, key_id)
    if as_json:
        write(_text({"key": key, **_shown(renewed), "file": str(path)}), None)
        return
    tell(f"key {renewed.id} of {renewed.name} in {path} as it is from now on; it is not shown again:")
    write(key, None)


@app.command()
def revoke(
    key_id: KeyId,
    file: KeysFile = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good; running services refuse it from the next request on."""
    from service import keys

    path = _path(file)
    with failing_on(keys.KeysError):
        ended = keys.revoke(path, key_id)
    if as_json:
        write(_text(_shown(ended)), None)
        return
    out.print(f"{ended.id}: revoked at {ended.revoked_at:%Y-%m-%dT%H:%M:%SZ}", highlight=False)


def _path(file: Path | None) -> Path:
    from service.keys import default_file

    return file or default_file(settings_with())


def _shown(key: "Key") -> Json:
    """A key without its hash: it would help nobody."""
    return key.model_dump(mode="json", exclude={"sha256"})


def _text(document: Json) -> str:
    return json.dumps(document, ensure_ascii=False, indent=1)
