"""The API key file: its content, access to it, and when keys are required."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from mmad.commands.keys import app
from mmad.local import serve
from service import keys, signing
from service.keys import KeyRing, KeysError, OwnLimits
from service.settings import Settings
from tests.command import mmad, mmad_process


@pytest.fixture(autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, in which commands create the webhook secret."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("MMAD_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_find_accepts_only_complete_keys(file: Path) -> None:
    created, key = keys.create(file, "alice", OwnLimits(max_jobs=3))
    other, other_key = keys.create(file, "bob", OwnLimits())
    ring = KeyRing(file)
    assert ring.find(key) == created
    assert ring.find(other_key) == other
    secret, other_secret = key[14:], other_key[14:]
    assert len(secret) == 43
    refused = (
        "", "mmad_", key[:-1], key + "x", key + "\n", f"MMAD{key[4:]}", secret, f"mmad_{created.id}_",
        f"mmad_{created.id}_{other_secret}", f"mmad_{other.id}_{secret}", f"mmad_00000000_{secret}",
        f"mmad_{created.id}_{created.sha256[:43]}", f"mmad_{created.id}_" + "é" * 43,
    )  # fmt: skip
    for presented in refused:
        assert ring.find(presented) is None, presented


def test_file_contains_the_hash_and_no_part_of_the_secret(file: Path) -> None:
    created, key = keys.create(file, "alice", OwnLimits())
    text = file.read_text()
    secret = key.removeprefix(f"mmad_{created.id}_")
    assert json.loads(text)["keys"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    parts = [secret[start : start + 6] for start in range(len(secret) - 5)]
    assert [part for part in parts if part in text] == []
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_write_makes_the_file_readable_by_its_owner_only(file: Path) -> None:
    created, _ = keys.create(file, "alice", OwnLimits())
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    keys.revoke(file, created.id)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change a file's owner")
def test_write_as_root_preserves_the_owner(file: Path) -> None:
    created, _ = keys.create(file, "alice", OwnLimits())
    os.chown(file, 12345, 12346)
    keys.revoke(file, created.id)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)
    assert file.stat().st_mode & 0o777 == 0o600


def test_write_preserves_a_symbolic_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    _, key = keys.create(link, "alice", OwnLimits())
    assert link.is_symlink()
    assert KeyRing(file).find(key)


def test_key_ring_sees_changes_by_other_processes(file: Path) -> None:
    ring = KeyRing(file)
    assert not ring.has_valid_key()
    created = json.loads(mmad_process("keys", "create", "alice", "--json", "--file", file).stdout)
    stored = ring.find(created["key"])
    assert stored is not None
    assert stored.id == created["id"]
    assert ring.has_valid_key()
    mmad_process("keys", "revoke", created["id"], "--file", file)
    assert ring.find(created["key"]) is None
    assert not ring.has_valid_key()
    file.unlink()
    assert ring.find(created["key"]) is None


def test_concurrent_writers_lose_no_keys(file: Path) -> None:
    program = (
        "import sys, pathlib; from service import keys\n"
        "sys.stdin.read()\n"
        "for number in range(25): keys.create(pathlib.Path(sys.argv[1]), str(number), keys.OwnLimits())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE) for _ in range(3)]
    for writer in writers:  # start together
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(keys.read(file).keys) == 75


def test_failed_write_leaves_the_file_unchanged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(file, "alice", OwnLimits())
    before = file.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeysError, match="keys.json cannot be written: No space left on device"):
        keys.create(file, "bob", OwnLimits())
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_second_revocation_preserves_the_first_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created, _ = keys.create(file, "alice", OwnLimits())
    first = keys.revoke(file, created.id)
    assert first.revoked_at is not None
    monkeypatch.setattr(keys, "_now", lambda: datetime.now(UTC) + timedelta(days=1))
    assert keys.revoke(file, created.id).revoked_at == first.revoked_at
    with pytest.raises(KeysError, match="'deadbeef'.*mmad keys list"):
        keys.revoke(file, "deadbeef")


def test_rotated_key_has_the_same_id_and_a_new_secret(file: Path) -> None:
    created, old = keys.create(file, "alice", OwnLimits(max_jobs=3))
    other, other_key = keys.create(file, "bob", OwnLimits())
    ring = KeyRing(file)
    assert ring.find(old)
    renewed, new = keys.rotate(file, created.id)
    assert ring.find(old) is None
    assert ring.find(new) == renewed
    assert ring.find(other_key) == other
    assert renewed.rotated_at is not None
    changed = {"sha256": hashlib.sha256(new[14:].encode()).hexdigest(), "rotated_at": renewed.rotated_at}
    assert renewed == created.model_copy(update=changed)
    assert new[:14] == old[:14]
    assert new[14:] not in file.read_text()
    assert keys.rotate(file, created.id)[1] != new
    assert [key.id for key in keys.read(file).keys] == [created.id, other.id]


def test_revoked_or_unknown_key_cannot_be_rotated(file: Path) -> None:
    created, _ = keys.create(file, "alice", OwnLimits())
    keys.revoke(file, created.id)
    before = file.read_bytes()
    with pytest.raises(KeysError, match=f"{created.id} was revoked at 20.*mmad keys create"):
        keys.rotate(file, created.id)
    with pytest.raises(KeysError, match="'deadbeef'.*mmad keys list"):
        keys.rotate(file, "deadbeef")
    assert file.read_bytes() == before


KEY = {"id": "0123abcd", "name": "a", "sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"version": 2, "keys": []}', '{"keys": [], "more": 1}',
        json.dumps({"keys": [KEY, KEY]}),
        *(
            json.dumps({"keys": [KEY | change]})
            for change in (
                {"id": "0123ABCD"}, {"id": "../../et"}, {"sha256": "0" * 63}, {"name": ""}, {"name": "a\nb"},
                {"created_at": "2026-01-01T00:00:00"}, {"created_at": 0}, {"secret": "x"},
                {"limits": {"max_jobs": 0}}, {"limits": {"max_jobs": "3"}}, {"limits": {"jobs": 3}},
            )
        ),
    ],
)  # fmt: skip
def test_invalid_file_is_refused(file: Path, content: str) -> None:
    file.write_text(json.dumps({"keys": [KEY]}))
    assert [key.name for key in keys.read(file).keys] == ["a"]
    file.write_text(content)
    with pytest.raises(KeysError, match="keys.json is no file of keys"):
        KeyRing(file)


def test_validation_error_does_not_repeat_a_misplaced_key(file: Path) -> None:
    _, key = keys.create(file, "alice", OwnLimits())
    file.write_text(json.dumps({"keys": [KEY | {"sha256": key}]}))
    with pytest.raises(KeysError) as caught:
        keys.read(file)
    assert [key[start : start + 4] for start in range(5, 50) if key[start : start + 4] in str(caught.value)] == []
    assert "keys.0.sha256" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_damaged_file_refuses_keys_until_repaired(file: Path) -> None:
    _, key = keys.create(file, "alice", OwnLimits())
    valid = file.read_bytes()
    ring = KeyRing(file)
    assert ring.find(key)
    file.write_bytes(valid[:-9])
    for _ in range(2):
        with pytest.raises(KeysError):
            ring.find(key)
    file.write_bytes(valid)
    assert ring.find(key)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.8.7", True), ("::1", True), ("localhost", True), ("LocalHost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.2", False), ("10.0.0.1", False),
        ("128.0.0.1", False), ("::2", False), ("localhost.example.org", False), ("127.0.0.1.example.org", False),
    ],
)  # fmt: skip
def test_is_loopback(host: str, loopback: bool) -> None:
    assert keys.is_loopback(host) is loopback


def test_keys_are_required_unless_on_loopback_or_open(tmp_path: Path) -> None:
    named, default = tmp_path / "named.json", tmp_path / "keys.json"
    loopback, public = {"data_dir": tmp_path}, {"data_dir": tmp_path, "host": "0.0.0.0"}
    assert keys.active_keys_file(Settings(**loopback)) is None
    assert keys.active_keys_file(Settings(**loopback, api_keys_file=named)) == named
    assert keys.active_keys_file(Settings(**public, allow_open=True)) is None
    assert keys.active_keys_file(Settings(**public, allow_open=True, api_keys_file=named)) == named
    assert keys.active_keys_file(Settings(**public)) == default
    assert keys.active_keys_file(Settings(**public, api_keys_file=named)) == named


def test_public_address_needs_keys_or_allow_open(tmp_path: Path) -> None:
    public = Settings(data_dir=tmp_path / "data", host="0.0.0.0")
    with pytest.raises(KeysError) as caught:
        keys.check_exposure(public)
    for word in ("0.0.0.0", "127.0.0.1", "MMAD_API_KEYS_FILE", "MMAD_ALLOW_OPEN=true", "mmad keys create"):
        assert word in str(caught.value)
    for allowed in ({"host": "127.0.0.1"}, {"allow_open": True}, {"api_keys_file": tmp_path / "none yet"}):
        keys.check_exposure(public.model_copy(update=allowed))
    with pytest.raises(KeysError, match="MMAD_ALLOW_OPEN=true"):
        serve(public, 1, lambda _url: None)
    assert not public.data_dir.exists()
    keys.create(keys.default_file(public), "alice", OwnLimits())
    keys.check_exposure(public)


@pytest.mark.parametrize("arguments", [("api",), ("serve", "--host", "192.0.2.1")])
def test_commands_refuse_a_public_address_without_keys(arguments: tuple[str, ...], tmp_path: Path) -> None:
    settings = {"MMAD_HOST": "0.0.0.0", "MMAD_DATA_DIR": str(tmp_path), "MMAD_REDIS_URL": "redis://127.0.0.1:9"}
    refused = mmad_process(*arguments, **settings)
    assert refused.returncode == 1
    assert "MMAD_ALLOW_OPEN=true" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_create_shows_the_key_once(file: Path) -> None:
    completed = keys_command("create", "alice", "--max-jobs", "3", "--file", str(file))
    assert completed.exit_code == 0
    assert KeyRing(file).find(completed.stdout.strip())
    assert "not shown again" in completed.stderr
    created = json.loads(keys_command("create", "bob", "--requests-per-minute", "7", "--max-stored-bytes", "9", "--json",
                              "--file", str(file)).stdout)  # fmt: skip
    stored = KeyRing(file).find(created["key"])
    assert stored is not None
    assert (stored.name, stored.limits) == ("bob", OwnLimits(requests_per_minute=7, max_stored_bytes=9))
    listed = keys_command("list", "--file", str(file), "--json")
    assert created["key"][14:] not in listed.stdout
    assert stored.sha256 not in listed.stdout
    document = json.loads(listed.stdout)
    assert document["file"] == str(file)
    assert [key["name"] for key in document["keys"]] == ["alice", "bob"]
    assert document["keys"][0]["limits"]["max_jobs"] == 3
    table = keys_command("list", "--file", str(file)).stdout
    assert "alice" in table
    assert stored.id in table


def test_create_shows_the_webhook_secret(file: Path, data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    completed = keys_command("create", "alice", "--file", str(file))
    [alice] = keys.read(file).keys
    assert signing.load_secret(settings, alice.id) in completed.stderr.split()
    assert str(data_dir / "webhook-secret") in completed.stderr
    created = json.loads(keys_command("create", "bob", "--json", "--file", str(file)).stdout)
    assert created["webhook_secret"] == signing.load_secret(settings, created["id"])
    assert signing.load_secret(settings) not in completed.output + json.dumps(created)


def test_create_fails_if_the_webhook_secret_is_invalid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", "whsec_short")
    refused = keys_command("create", "alice", "--file", str(file))
    assert refused.exit_code == 1
    assert "MMAD_WEBHOOK_SECRET" in refused.stderr
    assert not file.exists()


def test_rotate_shows_the_key_once_and_refuses_a_revoked_key(file: Path, data_dir: Path) -> None:
    created = json.loads(keys_command("create", "alice", "--json", "--file", str(file)).stdout)
    completed = keys_command("rotate", created["id"], "--file", str(file))
    assert completed.exit_code == 0
    assert KeyRing(file).find(completed.stdout.strip())
    assert KeyRing(file).find(created["key"]) is None
    assert "not shown again" in completed.stderr
    again = json.loads(keys_command("rotate", created["id"], "--json", "--file", str(file)).stdout)
    stored = KeyRing(file).find(again["key"])
    assert stored is not None
    assert (stored.id, stored.name, again["id"]) == (created["id"], "alice", created["id"])
    assert stored.sha256 not in json.dumps(again)
    keys_command("revoke", created["id"], "--file", str(file))
    refused = keys_command("rotate", created["id"], "--file", str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "was revoked" in refused.stderr


def test_webhook_secret_command_prints_the_secret_of_a_key(file: Path, data_dir: Path) -> None:
    created, _ = keys.create(file, "alice", OwnLimits())
    settings = Settings(data_dir=data_dir)
    own = mmad("webhook-secret", "--key", created.id, "--file", str(file))
    assert own.stdout == signing.load_secret(settings, created.id) + "\n"
    assert mmad("webhook-secret").stdout == signing.load_secret(settings) + "\n"
    for unknown in ("00000000", "open", ""):  # never falls back to the service's secret
        refused = mmad("webhook-secret", "--key", unknown, "--file", str(file))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "mmad keys list" in refused.stderr


def test_revoke_reports_the_time_or_an_unknown_key(file: Path) -> None:
    created = json.loads(keys_command("create", "[red]alice", "--json", "--file", str(file)).stdout)
    assert "[red]alice" in keys_command("list", "--file", str(file)).stdout
    completed = keys_command("revoke", created["id"], "--json", "--file", str(file))
    assert (completed.exit_code, json.loads(completed.stdout)["id"]) == (0, created["id"])
    assert json.loads(completed.stdout)["revoked_at"]
    assert KeyRing(file).find(created["key"]) is None
    again = keys_command("revoke", created["id"], "--file", str(file))
    assert (again.exit_code, created["id"] in again.stdout) == (0, True)
    unknown = keys_command("revoke", "00000000", "--file", str(file))
    assert unknown.exit_code == 1
    assert "00000000" in unknown.stderr


@pytest.mark.parametrize("arguments", [("",), ("a\nb",), ("a" * 101,), ("a", "--max-jobs", "0")])
def test_create_with_invalid_values_exits_with_status_2(file: Path, arguments: tuple[str, ...]) -> None:
    assert keys_command("create", *arguments, "--file", str(file)).exit_code == 2
    assert not file.exists()


def test_commands_use_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_DATA_DIR", str(tmp_path / "data"))
    assert keys_command("create", "alice").exit_code == 0
    assert (tmp_path / "data/keys.json").exists()
    assert "no keys in" in keys_command("list", "--file", str(tmp_path / "other.json")).stderr
    monkeypatch.setenv("MMAD_API_KEYS_FILE", str(tmp_path / "named.json"))
    assert keys_command("create", "bob").exit_code == 0
    assert [key.name for key in keys.read(tmp_path / "named.json").keys] == ["bob"]


def test_create_reports_an_unwritable_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    completed = keys_command("create", "alice", "--file", str(tmp_path / "file/keys.json"))
    assert completed.exit_code == 1
    assert "cannot be" in completed.stderr


def test_create_validates_the_name(file: Path) -> None:
    with pytest.raises(ValidationError):
        keys.create(file, "two\nlines", OwnLimits())
