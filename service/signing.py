"""What messages are signed with, and how: Standard Webhooks, by its library."""

import base64
import binascii
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import standardwebhooks

from service.settings import Settings


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


def secret(settings: Settings) -> str:
    """What messages are signed with (whsec_...): the setting's, or the one in the data directory, made if missing.

    Raises:
        ValueError: it is not a secret of Standard Webhooks: 24 to 64 bytes in Base64.
    """
    if settings.webhook_secret is not None:
        source, value = "MMAD_WEBHOOK_SECRET", settings.webhook_secret.get_secret_value()
    else:
        path = settings.data_dir / "webhook-secret"
        if not path.exists():
            _make_secret(path)
        source, value = str(path), path.read_text().strip()
    encoded = value.removeprefix("whsec_").rstrip("=")
    try:
        length = len(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
    except binascii.Error:
        length = 0
    if not 24 <= length <= 64:
        raise ValueError(
            f"{source} is not a secret for webhooks: give whsec_ and 24 to 64 random bytes in Base64"
        )
    return value


def _make_secret(path: Path) -> None:
    """Written aside and linked: of two processes that do so at once, one's secret becomes both's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", dir=path.parent, prefix=".webhook-secret-"
    ) as aside:  # readable by its owner only
        aside.write("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        aside.flush()
        os.fsync(aside.fileno())
        try:
            os.link(aside.name, path)
        except FileExistsError:
            return
