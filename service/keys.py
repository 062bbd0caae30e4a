"""The file of keys: who may call, and with which limits of their own.

A key is `mmad_<id>_<secret>`. The file holds the SHA-256 of the secret, never the secret itself. The secret is 32
random bytes, too many to try out: a slow hash, made for passwords that people choose, would add nothing but time at
every request.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.locks import lock
from service.schemas import Document
from service.settings import Settings

_KEY = re.compile(r"mmad_(?P<id>[0-9a-f]{8})_(?P<secret>[A-Za-z0-9_-]{43})")
_OWNER_ONLY = 0o600

Limit = Annotated[int, Field(gt=0)]


class KeysError(Exception):
    """The keys cannot be used as they are; the text says why, and what to do."""


class _Strict(Document):
    model_config = ConfigDict(strict=True)


class OwnLimits(_Strict):
    """Limits of one key; None: that of the settings."""

    requests_per_minute: Limit | None = None
    max_jobs: Limit | None = None
    max_stored_bytes: Limit | None = None


class Key(_Strict):
    """What is known of a key. `sha256` is that of its secret; `rotated_at` is when it last got a new one."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    rotated_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    limits: OwnLimits = OwnLimits()

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("a name is one line of printable characters")
        return name


class KeyFile(_Strict):
    """The whole file."""

    version: Literal[1] = 1
    keys: list[Key] = Field(default=[])

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have the same id")
        return self


def default_file(settings: Settings) -> Path:
    """The file that `mmad keys` works on where none is named."""
    return settings.api_keys_file or settings.data_dir / "keys.json"


def file_in_force(settings: Settings) -> Path | None:
    """The file in which every request's key must be; None where the service is open to all who reach it."""
    if settings.api_keys_file is None and (is_loopback(settings.host) or settings.allow_open):
        return None
    return default_file(settings)


def check_open(settings: Settings) -> None:
    """Refuse to listen where others can reach the service while it would ask nobody for a key.

    Raises:
        KeysError: names the address and the remedies.
    """
    path = file_in_force(settings)
    if path is not None and settings.api_keys_file is None and not path.exists():
        raise KeysError(
            f"others can reach the service on {settings.host}, and there are no keys: make one with "
            f"mmad keys create NAME (in {path}, or in the file that MMAD_API_KEYS_FILE names), or listen on "
            "127.0.0.1 (MMAD_HOST, --host), or set MMAD_ALLOW_OPEN=true to let everybody in"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address: 127.0.0.0/8, ::1 or localhost. In doubt: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def create(path: Path, name: str, limits: OwnLimits) -> tuple[Key, str]:
    """Add a key to a file, which is made where there is none.

    Returns:
        What is known of the key, and the key itself, which is kept nowhere.

    Raises:
        KeysError: the file does not fit, or cannot be written.
        ValidationError: the name does not fit.
    """
    secret = _new_secret()
    made: Key | None = None

    def add(keys: list[Key]) -> list[Key]:
        nonlocal made
        taken = {key.id for key in keys}
        key_id = next(one for one in iter(lambda: secrets.token_hex(4), "") if one not in taken)
        made = Key(id=key_id, name=name, sha256=_sha256(secret), created_at=_now(), limits=limits)
        return [*keys, made]

    _rewrite(path, add)
    assert made is not None
    return made, _presented(made, secret)


def rotate(path: Path, key_id: str) -> tuple[Key, str]:
    """Give a key a new secret, under the same id: its jobs stay its own. The old one ends with the next request.

    Returns:
        What is known of the key, and the key itself, which is kept nowhere.

    Raises:
        KeysError: no key has this id, or it was revoked; or the file does not fit, or cannot be written.
    """
    secret = _new_secret()

    def renew(key: Key) -> Key:
        if key.revoked_at:
            raise KeysError(
                f"the key {key_id} was revoked at {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}, which is for good: "
                "mmad keys create NAME makes another"
            )
        return key.model_copy(update={"sha256": _sha256(secret), "rotated_at": _now()})

    renewed = _change(path, key_id, renew)
    return renewed, _presented(renewed, secret)


def revoke(path: Path, key_id: str) -> Key:
    """End a key for good, from the next request on. One that was revoked before stays as it is.

    Raises:
        KeysError: no key has this id; or the file does not fit, or cannot be written.
    """
    return _change(path, key_id, lambda key: key.model_copy(update={"revoked_at": key.revoked_at or _now()}))


def find(path: Path, key_id: str) -> Key:
    """What is known of a key, also of one that was revoked.

    Raises:
        KeysError: no key has this id; or the file cannot be read, or does not fit.
    """
    return _found(path, read(path).keys, key_id)


def read(path: Path) -> KeyFile:
    """The file's content; no keys where there is no file.

    Raises:
        KeysError: it cannot be read, or is no file of keys.
    """
    return _read(path)[1]


class KeyRing:
    """The keys of a file, as it is on disk now: what another process creates or revokes counts at once."""

    def __init__(self, path: Path) -> None:
        """Raises KeysError where the file does not fit."""
        self._path = path
        self._held = _hold(path)

    def find(self, presented: str) -> Key | None:
        """The key that a caller presents; None where it is not one, or was revoked.

        Raises:
            KeysError: the file has changed and cannot be read: the keys held before may have been revoked in it.
        """
        parts = _KEY.fullmatch(presented)
        key = self._keys().get(parts["id"]) if parts else None
        if parts is None or key is None or not hmac.compare_digest(key.sha256, _sha256(parts["secret"])):
            return None
        return None if key.revoked_at else key

    def has_any(self) -> bool:
        """Whether a key could be found; raises KeysError."""
        return any(key.revoked_at is None for key in self._keys().values())

    def _keys(self) -> dict[str, Key]:
        held = self._held
        if held.version is None or held.version != _version(self._path):
            held = self._held = _hold(self._path)
        return held.by_id


class _Version(NamedTuple):
    """Tells one content of a file from the next: each is a file of its own, renamed into place."""

    inode: int
    changed_ns: int
    bytes: int


class _Held(NamedTuple):
    version: _Version | None
    by_id: dict[str, Key]


def _hold(path: Path) -> _Held:
    version, file = _read(path)
    return _Held(version, {key.id: key for key in file.keys})


def _version(path: Path) -> _Version | None:
    try:
        return _version_of(path.stat())
    except OSError:  # reading it says what is wrong
        return None


def _version_of(status: os.stat_result) -> _Version:
    return _Version(status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: Path) -> tuple[_Version | None, KeyFile]:
    try:
        with path.open("rb") as file:
            version = _version_of(os.fstat(file.fileno()))
            return version, KeyFile.model_validate_json(file.read())
    except FileNotFoundError:
        return None, KeyFile()
    except OSError as error:
        raise KeysError(f"the keys in {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        # Not what stands there: it may be a key that somebody pasted into the wrong file.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeysError(f"{path} is no file of keys: {where}: {first['msg']}; mmad keys makes one") from None


def _change(path: Path, key_id: str, change: Callable[[Key], Key]) -> Key:
    """Rewrite a file with one key changed; what became of it."""

    def change_one(keys: list[Key]) -> list[Key]:
        changed = change(_found(path, keys, key_id))
        return [changed if key.id == key_id else key for key in keys]

    return _found(path, _rewrite(path, change_one), key_id)


def _found(path: Path, keys: list[Key], key_id: str) -> Key:
    for key in keys:
        if key.id == key_id:
            return key
    raise KeysError(f"no key in {path} has the id {key_id!r}: see mmad keys list")


def _rewrite(path: Path, change: Callable[[list[Key]], list[Key]]) -> list[Key]:
    """Read, change, write, while no other process does the same."""
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            keys = change(read(path).keys)
            _replace(path, KeyFile(keys=keys).model_dump_json(indent=1, exclude_none=True) + "\n")
    except OSError as error:
        raise KeysError(f"the keys in {path} cannot be written: {error.strerror}") from error
    return keys


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder's own lock: a file beside the keys would have an owner, and could keep others out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)  # where there are none, two operators must not change keys at the same moment
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, and for its owner only."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            _keep_owner(path, file.fileno())
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Where root changes the file of another: else the service could not read it any more."""
    if path.exists():
        before, now = path.stat(), os.fstat(descriptor)
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)


def _new_secret() -> str:
    return secrets.token_urlsafe(32)


def _presented(key: Key, secret: str) -> str:
    """A key as its caller has it."""
    return f"mmad_{key.id}_{secret}"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
