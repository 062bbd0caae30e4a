"""The file of keys: what is in it, who may change it, and when it is asked for."""

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
    """Commands make the webhooks' secret there."""
    made = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("MMAD_DATA_DIR", str(made))
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_key_is_found_and_nothing_else_is(file: Path) -> None:
    made, key = keys.create(file, "alice", OwnLimits(max_jobs=3))
    other, other_key = keys.create(file, "bob", OwnLimits())
    ring = KeyRing(file)
    assert ring.find(key) == made
    assert ring.find(other_key) == other
    secret, other_secret = key[14:], other_key[14:]
    assert len(secret) == 43
    refused = (
        "", "mmad_", key[:-1], key + "x", key + "\n", f"MMAD{key[4:]}", secret, f"mmad_{made.id}_",
        f"mmad_{made.id}_{other_secret}", f"mmad_{other.id}_{secret}", f"mmad_00000000_{secret}",
        f"mmad_{made.id}_{made.sha256[:43]}", f"mmad_{made.id}_" + "é" * 43,
    )  # fmt: skip
    for presented in refused:
        assert ring.find(presented) is None, presented


def test_the_file_holds_a_hash_and_nothing_of_the_secret(file: Path) -> None:
    made, key = keys.create(file, "alice", OwnLimits())
    text = file.read_text()
    secret = key.removeprefix(f"mmad_{made.id}_")
    assert json.loads(text)["keys"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    pieces = [secret[start : start + 6] for start in range(len(secret) - 5)]
    assert [piece for piece in pieces if piece in text] == []
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_only_the_owner_reads_it_even_if_others_could_before(file: Path) -> None:
    made, _ = keys.create(file, "alice", OwnLimits())
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    keys.revoke(file, made.id)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_the_service_that_owns_it(file: Path) -> None:
    made, _ = keys.create(file, "alice", OwnLimits())
    os.chown(file, 12345, 12346)
    keys.revoke(file, made.id)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    _, key = keys.create(link, "alice", OwnLimits())
    assert link.is_symlink()
    assert KeyRing(file).find(key)


def test_a_running_service_sees_what_other_processes_do(file: Path) -> None:
    ring = KeyRing(file)
    assert not ring.has_valid_key()
    made = json.loads(mmad_process("keys", "create", "alice", "--json", "--file", file).stdout)
    found = ring.find(made["key"])
    assert found is not None
    assert found.id == made["id"]
    assert ring.has_valid_key()
    mmad_process("keys", "revoke", made["id"], "--file", file)
    assert ring.find(made["key"]) is None
    assert not ring.has_valid_key()
    file.unlink()
    assert ring.find(made["key"]) is None


def test_processes_that_write_at_once_lose_nothing(file: Path) -> None:
    program = (
        "import sys, pathlib; from service import keys\n"
        "sys.stdin.read()\n"
        "for number in range(25): keys.create(pathlib.Path(sys.argv[1]), str(number), keys.OwnLimits())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE) for _ in range(3)]
    for writer in writers:  # they begin together
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(keys.read(file).keys) == 75


def test_a_write_that_fails_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(file, "alice", OwnLimits())
    before = file.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeysError, match="keys.json cannot be written: No space left on device"):
        keys.create(file, "bob", OwnLimits())
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_revoked_is_for_good(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = keys.create(file, "alice", OwnLimits())
    first = keys.revoke(file, made.id)
    assert first.revoked_at is not None
    monkeypatch.setattr(keys, "_now", lambda: datetime.now(UTC) + timedelta(days=1))
    assert keys.revoke(file, made.id).revoked_at == first.revoked_at
    with pytest.raises(KeysError, match="'deadbeef'.*mmad keys list"):
        keys.revoke(file, "deadbeef")


def test_a_rotated_key_is_the_same_key_with_another_secret(file: Path) -> None:
    made, old = keys.create(file, "alice", OwnLimits(max_jobs=3))
    other, others = keys.create(file, "bob", OwnLimits())
    ring = KeyRing(file)
    assert ring.find(old)
    renewed, new = keys.rotate(file, made.id)
    assert ring.find(old) is None
    assert ring.find(new) == renewed
    assert ring.find(others) == other
    assert renewed.rotated_at is not None
    changed = {"sha256": hashlib.sha256(new[14:].encode()).hexdigest(), "rotated_at": renewed.rotated_at}
    assert renewed == made.model_copy(update=changed)
    assert new[:14] == old[:14]
    assert new[14:] not in file.read_text()
    assert keys.rotate(file, made.id)[1] != new
    assert [key.id for key in keys.read(file).keys] == [made.id, other.id]


def test_a_revoked_key_stays_revoked_when_it_is_rotated(file: Path) -> None:
    made, _ = keys.create(file, "alice", OwnLimits())
    keys.revoke(file, made.id)
    before = file.read_bytes()
    with pytest.raises(KeysError, match=f"{made.id} was revoked at 20.*mmad keys create"):
        keys.rotate(file, made.id)
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
def test_other_files_are_refused(file: Path, content: str) -> None:
    file.write_text(json.dumps({"keys": [KEY]}))
    assert [key.name for key in keys.read(file).keys] == ["a"]
    file.write_text(content)
    with pytest.raises(KeysError, match="keys.json is no file of keys"):
        KeyRing(file)


def test_a_key_in_the_wrong_place_is_not_repeated(file: Path) -> None:
    _, key = keys.create(file, "alice", OwnLimits())
    file.write_text(json.dumps({"keys": [KEY | {"sha256": key}]}))
    with pytest.raises(KeysError) as caught:
        keys.read(file)
    assert [key[start : start + 4] for start in range(5, 50) if key[start : start + 4] in str(caught.value)] == []
    assert "keys.0.sha256" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_file_that_broke_lets_nobody_in_until_it_is_mended(file: Path) -> None:
    _, key = keys.create(file, "alice", OwnLimits())
    whole = file.read_bytes()
    ring = KeyRing(file)
    assert ring.find(key)
    file.write_bytes(whole[:-9])
    for _ in range(2):
        with pytest.raises(KeysError):
            ring.find(key)
    file.write_bytes(whole)
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


def test_keys_are_off_on_loopback_and_on_elsewhere(tmp_path: Path) -> None:
    named, default = tmp_path / "named.json", tmp_path / "keys.json"
    here, everywhere = {"data_dir": tmp_path}, {"data_dir": tmp_path, "host": "0.0.0.0"}
    assert keys.active_keys_file(Settings(**here)) is None
    assert keys.active_keys_file(Settings(**here, api_keys_file=named)) == named
    assert keys.active_keys_file(Settings(**everywhere, allow_open=True)) is None
    assert keys.active_keys_file(Settings(**everywhere, allow_open=True, api_keys_file=named)) == named
    assert keys.active_keys_file(Settings(**everywhere)) == default
    assert keys.active_keys_file(Settings(**everywhere, api_keys_file=named)) == named


def test_it_does_not_start_open_to_others_unless_told(tmp_path: Path) -> None:
    everywhere = Settings(data_dir=tmp_path / "data", host="0.0.0.0")
    with pytest.raises(KeysError) as caught:
        keys.check_exposure(everywhere)
    for word in ("0.0.0.0", "127.0.0.1", "MMAD_API_KEYS_FILE", "MMAD_ALLOW_OPEN=true", "mmad keys create"):
        assert word in str(caught.value)
    for allowed in ({"host": "127.0.0.1"}, {"allow_open": True}, {"api_keys_file": tmp_path / "none yet"}):
        keys.check_exposure(everywhere.model_copy(update=allowed))
    with pytest.raises(KeysError, match="MMAD_ALLOW_OPEN=true"):
        serve(everywhere, 1, lambda _url: None)
    assert not everywhere.data_dir.exists()
    keys.create(keys.default_file(everywhere), "alice", OwnLimits())
    keys.check_exposure(everywhere)


@pytest.mark.parametrize("arguments", [("api",), ("serve", "--host", "192.0.2.1")])
def test_commands_refuse_with_a_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    settings = {"MMAD_HOST": "0.0.0.0", "MMAD_DATA_DIR": str(tmp_path), "MMAD_REDIS_URL": "redis://127.0.0.1:9"}
    refused = mmad_process(*arguments, **settings)
    assert refused.returncode == 1
    assert "MMAD_ALLOW_OPEN=true" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_create_shows_the_key_once(file: Path) -> None:
    done = command("create", "alice", "--max-jobs", "3", "--file", str(file))
    assert done.exit_code == 0
    assert KeyRing(file).find(done.stdout.strip())
    assert "not shown again" in done.stderr
    made = json.loads(command("create", "bob", "--requests-per-minute", "7", "--max-stored-bytes", "9", "--json",
                              "--file", str(file)).stdout)  # fmt: skip
    found = KeyRing(file).find(made["key"])
    assert found is not None
    assert (found.name, found.limits) == ("bob", OwnLimits(requests_per_minute=7, max_stored_bytes=9))
    listed = command("list", "--file", str(file), "--json")
    assert made["key"][14:] not in listed.stdout
    assert found.sha256 not in listed.stdout
    document = json.loads(listed.stdout)
    assert document["file"] == str(file)
    assert [key["name"] for key in document["keys"]] == ["alice", "bob"]
    assert document["keys"][0]["limits"]["max_jobs"] == 3
    table = command("list", "--file", str(file)).stdout
    assert "alice" in table
    assert found.id in table


def test_create_shows_what_messages_are_signed_with(file: Path, data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    done = command("create", "alice", "--file", str(file))
    [alice] = keys.read(file).keys
    assert signing.load_secret(settings, alice.id) in done.stderr.split()
    assert str(data_dir / "webhook-secret") in done.stderr
    made = json.loads(command("create", "bob", "--json", "--file", str(file)).stdout)
    assert made["webhook_secret"] == signing.load_secret(settings, made["id"])
    assert signing.load_secret(settings) not in done.output + json.dumps(made)


def test_no_key_is_made_where_there_is_no_secret_to_show(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", "whsec_short")
    refused = command("create", "alice", "--file", str(file))
    assert refused.exit_code == 1
    assert "MMAD_WEBHOOK_SECRET" in refused.stderr
    assert not file.exists()


def test_rotate_shows_the_key_once_or_says_why_not(file: Path, data_dir: Path) -> None:
    made = json.loads(command("create", "alice", "--json", "--file", str(file)).stdout)
    done = command("rotate", made["id"], "--file", str(file))
    assert done.exit_code == 0
    assert KeyRing(file).find(done.stdout.strip())
    assert KeyRing(file).find(made["key"]) is None
    assert "not shown again" in done.stderr
    again = json.loads(command("rotate", made["id"], "--json", "--file", str(file)).stdout)
    found = KeyRing(file).find(again["key"])
    assert found is not None
    assert (found.id, found.name, again["id"]) == (made["id"], "alice", made["id"])
    assert found.sha256 not in json.dumps(again)
    command("revoke", made["id"], "--file", str(file))
    refused = command("rotate", made["id"], "--file", str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "was revoked" in refused.stderr


def test_the_webhook_secret_of_a_key_is_that_of_its_jobs(file: Path, data_dir: Path) -> None:
    made, _ = keys.create(file, "alice", OwnLimits())
    settings = Settings(data_dir=data_dir)
    own = mmad("webhook-secret", "--key", made.id, "--file", str(file))
    assert own.stdout == signing.load_secret(settings, made.id) + "\n"
    assert mmad("webhook-secret").stdout == signing.load_secret(settings) + "\n"
    for unknown in ("00000000", "open", ""):  # never the service's own instead
        refused = mmad("webhook-secret", "--key", unknown, "--file", str(file))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "mmad keys list" in refused.stderr


def test_revoke_says_when_or_why_not(file: Path) -> None:
    made = json.loads(command("create", "[red]alice", "--json", "--file", str(file)).stdout)
    assert "[red]alice" in command("list", "--file", str(file)).stdout
    done = command("revoke", made["id"], "--json", "--file", str(file))
    assert (done.exit_code, json.loads(done.stdout)["id"]) == (0, made["id"])
    assert json.loads(done.stdout)["revoked_at"]
    assert KeyRing(file).find(made["key"]) is None
    again = command("revoke", made["id"], "--file", str(file))
    assert (again.exit_code, made["id"] in again.stdout) == (0, True)
    unknown = command("revoke", "00000000", "--file", str(file))
    assert unknown.exit_code == 1
    assert "00000000" in unknown.stderr


@pytest.mark.parametrize("arguments", [("",), ("a\nb",), ("a" * 101,), ("a", "--max-jobs", "0")])
def test_create_with_wrong_values_is_wrong_usage(file: Path, arguments: tuple[str, ...]) -> None:
    assert command("create", *arguments, "--file", str(file)).exit_code == 2
    assert not file.exists()


def test_the_file_is_that_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_DATA_DIR", str(tmp_path / "data"))
    assert command("create", "alice").exit_code == 0
    assert (tmp_path / "data/keys.json").exists()
    assert "no keys in" in command("list", "--file", str(tmp_path / "other.json")).stderr
    monkeypatch.setenv("MMAD_API_KEYS_FILE", str(tmp_path / "named.json"))
    assert command("create", "bob").exit_code == 0
    assert [key.name for key in keys.read(tmp_path / "named.json").keys] == ["bob"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("create", "alice", "--file", str(tmp_path / "file/keys.json"))
    assert done.exit_code == 1
    assert "cannot be" in done.stderr


def test_names_are_checked_where_keys_are_made(file: Path) -> None:
    with pytest.raises(ValidationError):
        keys.create(file, "two\nlines", OwnLimits())
