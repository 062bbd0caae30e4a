"""The key file: API keys and their individual limits.

A key is `mmad_<id>_<secret>`. The file holds the SHA-256 of the secret, never the secret itself. A fast hash is enough:
the secret is 32 random bytes and cannot be guessed, so a slow password hash would only delay every request.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.files import lock, open_replacement
from service.schemas import Document
from service.settings import Settings

_KEY = re.compile(r"mmad_(?P<id>[0-9a-f]{8})_(?P<secret>[A-Za-z0-9_-]{43})")
_OWNER_ONLY = 0o600

Limit = Annotated[int, Field(gt=0)]
# Inode, modification time and size of the file: each write renames a new file into place.
_Version = tuple[int, int, int]


class KeysError(Exception):
    """The keys cannot be used; the message names the reason and the remedy."""


class _Strict(Document):
    model_config = ConfigDict(strict=True)


class OwnLimits(_Strict):
    """Limits of one key; None means the limit of the settings."""

    requests_per_minute: Limit | None = None
    max_jobs: Limit | None = None
    max_stored_bytes: Limit | None = None


class Key(_Strict):
    """Stored data of a key. `sha256` is the hash of its secret; `rotated_at` is the time of its last rotation."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    rotated_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    limits: OwnLimits = OwnLimits()

    @field_validator("name")
    @classmethod
    def _check_printable(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("a name is one line of printable characters")
        return name


class KeyFile(_Strict):
    """Content of the key file."""

    version: Literal[1] = 1
    keys: list[Key] = Field(default=[])

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have the same id")
        return self


def default_file(settings: Settings) -> Path:
    """Return the key file that `mmad keys` uses by default."""
    return settings.api_keys_file or settings.data_dir / "keys.json"


def active_keys_file(settings: Settings) -> Path | None:
    """Return the key file that every request is checked against; None if no keys are required."""
    if settings.api_keys_file is None and (is_loopback(settings.host) or settings.allow_open):
        return None
    return default_file(settings)


def check_exposure(settings: Settings) -> None:
    """Raise KeysError if the service would listen on a non-loopback address without keys and without `allow_open`."""
    path = active_keys_file(settings)
    if path is not None and settings.api_keys_file is None and not path.exists():
        raise KeysError(
            f"others can reach the service on {settings.host}, and there are no keys: make one with "
            f"mmad keys create NAME (in {path}, or in the file that MMAD_API_KEYS_FILE names), or listen on "
            "127.0.0.1 (MMAD_HOST, --host), or set MMAD_ALLOW_OPEN=true to let everybody in"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is known to be reachable from this machine only: 127.0.0.0/8, ::1 or localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def create(path: Path, name: str, limits: OwnLimits) -> tuple[Key, str]:
    """Add a key to a file, which is created if missing; return its data, and the key itself, which is stored nowhere.

    Raises KeysError if the file is invalid or cannot be written, and ValidationError for an invalid name.
    """
    secret = secrets.token_urlsafe(32)
    with _change(path) as keys:
        while (key_id := secrets.token_hex(4)) in keys:
            pass
        key = Key(id=key_id, name=name, sha256=_sha256(secret), created_at=_now(), limits=limits)
        keys[key_id] = key
    return key, _format_key(key, secret)


def rotate(path: Path, key_id: str) -> tuple[Key, str]:
    """Give a key a new secret and return both as `create` does. The old one is refused from the next request on.

    Raises KeysError if no key has this id, it was revoked, or the file is invalid or cannot be written.
    """
    secret = secrets.token_urlsafe(32)
    with _change(path) as keys:
        key = _find_in(path, keys, key_id)
        if key.revoked_at:
            raise KeysError(
                f"the key {key_id} was revoked at {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}, which is for good: "
                "mmad keys create NAME makes another"
            )
        key = keys[key_id] = key.model_copy(update={"sha256": _sha256(secret), "rotated_at": _now()})
    return key, _format_key(key, secret)


def revoke(path: Path, key_id: str) -> Key:
    """Revoke a key for good, from the next request on. Raises KeysError if no key has this id, or as `create`."""
    with _change(path) as keys:
        key = _find_in(path, keys, key_id)
        key = keys[key_id] = key.model_copy(update={"revoked_at": key.revoked_at or _now()})
    return key


def find(path: Path, key_id: str) -> Key:
    """Return the stored data of a key, revoked or not. Raises KeysError if no key has this id, or as `read`."""
    return _find_in(path, _read(path)[1], key_id)


def read(path: Path) -> KeyFile:
    """Read a key file; a missing file has no keys. Raises KeysError if it cannot be read or is not a key file."""
    return KeyFile(keys=list(_read(path)[1].values()))


class KeyRing:
    """The keys of a file, reloaded when the file changes, so that changes by other processes apply at once."""

    def __init__(self, path: Path) -> None:
        """Load the keys; raises KeysError if the file is invalid."""
        self._path = path
        self._loaded = _read(path)

    def find(self, presented: str) -> Key | None:
        """Return the key that a caller presents; None if it is unknown or revoked.

        Raises KeysError if the changed file cannot be read: cached keys may have been revoked in it.
        """
        parts = _KEY.fullmatch(presented)
        key = self._keys().get(parts["id"]) if parts else None
        if parts is None or key is None or not hmac.compare_digest(key.sha256, _sha256(parts["secret"])):
            return None
        return None if key.revoked_at else key

    def has_valid_key(self) -> bool:
        """Return whether any key is not revoked; raises KeysError."""
        return any(key.revoked_at is None for key in self._keys().values())

    def _keys(self) -> dict[str, Key]:
        version, by_id = self._loaded
        with suppress(OSError):  # reading reports the error
            if version == _get_version(self._path.stat()):
                return by_id
        self._loaded = _read(self._path)
        return self._loaded[1]


def _get_version(status: os.stat_result) -> _Version:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> tuple[_Version | None, dict[str, Key]]:
    try:
        with path.open("rb") as file:
            version = _get_version(os.fstat(file.fileno()))  # before the content: a later change is noticed
            return version, {key.id: key for key in KeyFile.model_validate_json(file.read()).keys}
    except FileNotFoundError:
        return None, {}
    except OSError as error:
        raise KeysError(f"the keys in {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        # Do not show the content: it may be a key pasted into the wrong file.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeysError(f"{path} is no file of keys: {where}: {first['msg']}; mmad keys makes one") from None


def _find_in(path: Path, keys: dict[str, Key], key_id: str) -> Key:
    if key_id not in keys:
        raise KeysError(f"no key in {path} has the id {key_id!r}: see mmad keys list")
    return keys[key_id]


@contextmanager
def _change(path: Path) -> Iterator[dict[str, Key]]:
    """Yield the keys by id, with the folder locked, and write them on exit unless an exception was raised."""
    path = path.resolve()  # replace the target of a symbolic link, not the link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lock file might be owned by another user and not be writable.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # Without effect on systems without locks: there, keys must not be changed concurrently.
            lock(folder)
            _, keys = _read(path)
            yield keys
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with open_replacement(path, temporary, mode=_OWNER_ONLY) as file:
                content = KeyFile(keys=list(keys.values())).model_dump_json(indent=1, exclude_none=True)
                file.write(content.encode() + b"\n")
                _copy_owner(path, file.fileno())
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"the keys in {path} cannot be written: {error.strerror}") from error


def _copy_owner(path: Path, descriptor: int) -> None:
    """Give the new file the owner of the old one, so that the service can still read it after root changed it."""
    if path.exists():
        before, now = path.stat(), os.fstat(descriptor)
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)


def _format_key(key: Key, secret: str) -> str:
    return f"mmad_{key.id}_{secret}"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
