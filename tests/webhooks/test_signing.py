"""Webhook secrets and signatures."""

import base64
import json
import stat
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import standardwebhooks
from pydantic import SecretStr

from service.jobs import ANONYMOUS_OWNER
from service.settings import Settings
from service.signing import load_secret
from tests.webhooks.deployment import Deployment, ScriptedPost, now
from tests.webhooks.receiver import Receiver


def test_altered_message_fails_verification(deployment: Deployment, receiver: Receiver) -> None:
    deployment.make_job(receiver.url)
    deployment.process().deliver_due(now())
    [(_, headers, body)] = receiver.deliveries
    verifier = standardwebhooks.Webhook(load_secret(deployment.settings))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(body.replace(b"succeeded", b"failed"), headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(body, headers | {"webhook-id": "msg_another"})


def is_valid(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(body, dict(headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def test_messages_are_signed_with_secret_of_owner(deployment: Deployment) -> None:
    owners = [ANONYMOUS_OWNER, "0123abcd", "4567cdef"]
    records = {deployment.make_job(owner=owner).id: owner for owner in owners}
    post = ScriptedPost([200] * 3)
    assert deployment.process(post).deliver_due(now()) == 3
    signed_by = {}
    for _, headers, body in post.requests:
        matches = [owner for owner in owners if is_valid(load_secret(deployment.settings, owner), headers, body)]
        signed_by[json.loads(body)["data"]["id"]] = matches
    assert signed_by == {job_id: [owner] for job_id, owner in records.items()}


def test_secret_of_key_is_derived_from_service_secret(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "webhook_secret": "whsec_" + base64.b64encode(bytes(range(32))).decode()}
    settings = Settings.model_validate(given)
    # printf 'mmad webhook 0123abcd' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f -binary | base64
    assert load_secret(settings, "0123abcd") == "whsec_nqR0pr7wB0E8uzQOXjMU1LWlzisuBTFDaVJIRwVINTw="
    unpadded = settings.model_copy(update={"webhook_secret": SecretStr(given["webhook_secret"].rstrip("="))})  # type: ignore[attr-defined]
    assert load_secret(unpadded, "0123abcd") == load_secret(settings, "0123abcd")
    other = settings.model_copy(update={"webhook_secret": SecretStr("whsec_" + "A" * 43 + "=")})
    secrets = {
        load_secret(used, owner) for used in (settings, other) for owner in (ANONYMOUS_OWNER, "0123abcd", "0123abce")
    }
    assert len(secrets) == 6
    assert list(tmp_path.iterdir()) == []


def test_generated_secret_is_unique_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    barrier = threading.Barrier(8)

    def make(_: int) -> str:
        barrier.wait()
        return load_secret(Settings(data_dir=folder))

    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(make, range(8)))
    assert secrets == {load_secret(Settings(data_dir=folder))}
    assert [path.name for path in folder.iterdir()] == ["webhook-secret"]
    assert stat.S_IMODE((folder / "webhook-secret").stat().st_mode) == 0o600
    assert secrets != {load_secret(Settings(data_dir=tmp_path / "other"))}


def test_secret_setting_is_validated_and_preferred(tmp_path: Path) -> None:
    good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert load_secret(Settings.model_validate({"data_dir": tmp_path, "webhook_secret": good})) == good
    assert list(tmp_path.iterdir()) == []
    for bad in (
        "",
        "hunter2",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + "A" * 200,
        "whsec_****" + good,
        good[:18] + "!" + good[18:],
    ):
        with pytest.raises(ValueError, match="MMAD_WEBHOOK_SECRET") as caught:
            load_secret(Settings.model_validate({"data_dir": tmp_path, "webhook_secret": bad}))
        assert not bad or bad not in str(caught.value) or bad == "whsec_"
