"""`mmad keys`: create, list, rotate and revoke API keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.models import Json
from mmad.options import AsJson, load_settings
from mmad.terminal import exit_on, fail, out, print_status, print_table, write, write_json

if TYPE_CHECKING:
    from service.keys import Key

app = typer.Typer(help="Create, list, rotate and revoke API keys.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as mmad keys list shows it.")]
KeysFile = Annotated[
    Path | None,
    typer.Option("--file", help="File of API keys; MMAD_API_KEYS_FILE or keys.json in the data directory by default."),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key's owner.")],
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests per minute; MMAD_REQUESTS_PER_MINUTE by default.")
    ] = None,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="Unfinished jobs at a time; MMAD_MAX_JOBS_PER_KEY by default.")
    ] = None,
    max_stored_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Bytes of videos stored at a time; MMAD_MAX_STORED_BYTES_PER_KEY by default."),
    ] = None,
    file: KeysFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once: only its hash is stored. Its webhook secret goes to standard error."""
    from pydantic import ValidationError

    from service import keys, signing

    settings = load_settings()
    with exit_on(ValueError, OSError):  # fails before the key is created, not after
        signing.load_secret(settings)
    limits = keys.OwnLimits(
        requests_per_minute=requests_per_minute, max_jobs=max_jobs, max_stored_bytes=max_stored_bytes
    )
    path = file or keys.default_file(settings)
    try:
        with exit_on(keys.KeysError):
            created, key = keys.create(path, name, limits)
    except ValidationError as error:
        fail(f"NAME={name!r}: {error.errors()[0]['msg']}", status=2)
    if as_json:
        secret = signing.load_secret(settings, created.id)
        write_json({"key": key, **_to_json(created), "file": str(path), "webhook_secret": secret})
        return
    print_status(f"key {created.id} of {created.name} in {path}; it is not shown again:")
    write(key)
    print_status(
        f"messages to the callback_url of its jobs are signed with (made from {signing.secret_source(settings)}):"
    )
    print_status(signing.load_secret(settings, created.id))
    if settings.api_keys_file is None:
        print_status(f"services that listen on this machine alone ask for keys only with MMAD_API_KEYS_FILE={path}")


@app.command("list")
def list_keys(file: KeysFile = None, as_json: AsJson = False) -> None:
    """List all keys, including revoked ones."""
    from service import keys

    path = _find_file(file)
    with exit_on(keys.KeysError):
        all_keys = keys.read(path).keys
    if as_json:
        write_json({"file": str(path), "keys": [_to_json(key) for key in all_keys]})
        return
    if not all_keys:
        print_status(f"no keys in {path}: mmad keys create NAME makes one")
        return
    rows = []
    for key in all_keys:
        dates = (f"{when:%Y-%m-%d}" if when else "" for when in (key.created_at, key.revoked_at))
        limits = ("" if limit is None else limit for _, limit in key.limits)
        rows.append((key.id, key.name, *dates, *limits))
    print_table(("id", "name", "created", "revoked", "requests a minute", "jobs", "stored bytes"), rows)


@app.command()
def rotate(key_id: KeyId, file: KeysFile = None, as_json: AsJson = False) -> None:
    """Replace a key's secret and print the new one once; running services refuse the old one immediately.

    Jobs, limits and webhook secret do not change.
    """
    from service import keys

    path = _find_file(file)
    with exit_on(keys.KeysError):
        renewed, key = keys.rotate(path, key_id)
    if as_json:
        write_json({"key": key, **_to_json(renewed), "file": str(path)})
        return
    print_status(f"key {renewed.id} of {renewed.name} in {path} as it is from now on; it is not shown again:")
    write(key)


@app.command()
def revoke(key_id: KeyId, file: KeysFile = None, as_json: AsJson = False) -> None:
    """Revoke a key permanently; running services refuse it immediately."""
    from service import keys

    path = _find_file(file)
    with exit_on(keys.KeysError):
        revoked = keys.revoke(path, key_id)
    if as_json:
        write_json(_to_json(revoked))
        return
    out.print(f"{revoked.id}: revoked at {revoked.revoked_at:%Y-%m-%dT%H:%M:%SZ}")


def _find_file(file: Path | None) -> Path:
    from service.keys import default_file

    return file or default_file(load_settings())


def _to_json(key: "Key") -> Json:
    """Return a key as JSON without its hash."""
    return key.model_dump(mode="json", exclude={"sha256"})
