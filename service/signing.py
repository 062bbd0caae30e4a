"""Signing of webhook messages (Standard Webhooks).

Each API key has its own signing secret, derived from the service's master secret. A receiver that verifies the messages
of one key can neither forge those of another key nor compute the master secret.
"""

import base64
import binascii
import hmac
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import standardwebhooks

from service.jobs import ANONYMOUS_OWNER
from service.settings import Settings

_PREFIX = "whsec_"


def sign(secret: str, message_id: str, body: str) -> dict[str, str]:
    """Return the headers of one attempt, timestamped now: receivers refuse signatures that are minutes old."""
    at = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": "mmad",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign(message_id, at, body),
    }


def load_secret(settings: Settings, owner: str = ANONYMOUS_OWNER) -> str:
    """Return the secret (whsec_...) that signs the messages about an owner's jobs.

    For ANONYMOUS_OWNER it is the master secret: that of the settings, or the one in the data directory, which is
    created if missing. For a key it is HMAC-SHA256(master secret, "mmad webhook " + key id). Raises ValueError if the
    master secret is not 24 to 64 bytes in Base64, as Standard Webhooks requires.
    """
    if settings.webhook_secret is not None:
        value = settings.webhook_secret.get_secret_value()
    else:
        path = _secret_file(settings)
        if not path.exists():
            _make_secret(path)
        value = path.read_text().strip()
    if not 24 <= len(_decode(value)) <= 64:
        raise ValueError(
            f"{secret_source(settings)} is not a secret for webhooks: give whsec_ and 24 to 64 random bytes in Base64"
        )
    return derive_secret(owner, value)


def secret_source(settings: Settings) -> str:
    """Return where the master secret is configured: the name of the setting, or the file."""
    return "MMAD_WEBHOOK_SECRET" if settings.webhook_secret is not None else str(_secret_file(settings))


def derive_secret(owner: str, master: str) -> str:
    """Return the secret of an owner; see load_secret."""
    if owner == ANONYMOUS_OWNER:
        return master
    derived = hmac.digest(_decode(master), b"mmad webhook " + owner.encode(), "sha256")
    return _PREFIX + base64.b64encode(derived).decode()


def _decode(value: str) -> bytes:
    """Return the bytes of a secret as receivers decode it; empty if it is not valid Base64."""
    encoded = value.removeprefix(_PREFIX).rstrip("=")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return b""


def _secret_file(settings: Settings) -> Path:
    return settings.data_dir / "webhook-secret"


def _make_secret(path: Path) -> None:
    """Write a new secret to a temporary file and link it: if two processes do so at once, both use the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=".webhook-secret-") as temporary:  # readable by its owner only
        temporary.write(_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())
        temporary.flush()
        os.fsync(temporary.fileno())
        try:
            os.link(temporary.name, path)
        except FileExistsError:
            return
