"""What messages are signed with, and how: Standard Webhooks, by its library.

Each key has a secret of its own, made from the service's: who can verify the messages of one key's jobs can neither
forge those of another's nor work out the secret they all come from.
"""

import base64
import binascii
import hmac
import os
import secrets
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import standardwebhooks

from service.jobs import NOBODY
from service.settings import Settings

_PREFIX = "whsec_"
_SIGNERS_HELD = 256


class Signer:
    """Signs messages with a secret."""

    def __init__(self, secret: str) -> None:
        self._webhook = standardwebhooks.Webhook(secret)

    def headers(self, message_id: str, body: str) -> dict[str, str]:
        """The headers of one try; its time is now, as receivers refuse a signature that is some minutes old."""
        at = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "user-agent": "mmad",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._webhook.sign(message_id, at, body),
        }


class Signers:
    """A signer for each owner of jobs. The service's secret is read once, when this is made."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError where the secret is not one."""
        master = secret(settings)

        @lru_cache(_SIGNERS_HELD)
        def make(owner: str) -> Signer:
            return Signer(_secret_of(owner, master))

        self._make = make

    def of(self, owner: str) -> Signer:
        """What signs the messages of an owner's jobs: the id of a key, or NOBODY."""
        return self._make(owner)


def secret(settings: Settings, owner: str = NOBODY) -> str:
    """What messages about an owner's jobs are signed with (whsec_...).

    For jobs of nobody it is the service's own: the setting's, or the one in the data directory, made if missing. For
    those of a key it is HMAC-SHA256(the service's own, "mmad webhook " and the key's id).

    Raises:
        ValueError: it is not a secret of Standard Webhooks: 24 to 64 bytes in Base64.
    """
    if settings.webhook_secret is not None:
        value = settings.webhook_secret.get_secret_value()
    else:
        path = _file(settings)
        if not path.exists():
            _make_secret(path)
        value = path.read_text().strip()
    if not 24 <= len(_decoded(value)) <= 64:
        raise ValueError(
            f"{source(settings)} is not a secret for webhooks: give whsec_ and 24 to 64 random bytes in Base64"
        )
    return _secret_of(owner, value)


def source(settings: Settings) -> str:
    """Where the service's secret stands: the setting's name, or the file."""
    return "MMAD_WEBHOOK_SECRET" if settings.webhook_secret is not None else str(_file(settings))


def _secret_of(owner: str, master: str) -> str:
    if owner == NOBODY:
        return master
    derived = hmac.digest(_decoded(master), b"mmad webhook " + owner.encode(), "sha256")
    return _PREFIX + base64.b64encode(derived).decode()


def _decoded(value: str) -> bytes:
    """The bytes of a secret, as receivers decode it; none where it is not one."""
    encoded = value.removeprefix(_PREFIX).rstrip("=")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return b""


def _file(settings: Settings) -> Path:
    return settings.data_dir / "webhook-secret"


def _make_secret(path: Path) -> None:
    """Written aside and linked: of two processes that do so at once, one's secret becomes both's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", dir=path.parent, prefix=".webhook-secret-"
    ) as aside:  # readable by its owner only
        aside.write(_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())
        aside.flush()
        os.fsync(aside.fileno())
        try:
            os.link(aside.name, path)
        except FileExistsError:
            return
