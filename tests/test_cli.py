"""The command line: its commands, JSON on standard output, exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmad import benchmark
from mmad.cli_reference import write_reference
from model.bundle import Bundle
from tests.command import mmad, mmad_process
from tests.conftest import Service


def test_help_lists_every_command() -> None:
    help_text = mmad_process("--help").stdout
    for command in (
        "serve",
        "api",
        "worker",
        "detect",
        "submit",
        "labels",
        "export",
        "bundle",
        "bench",
        "jobs",
        "keys",
        "webhook-secret",
    ):
        assert f" {command} " in help_text
        completed = mmad(command, "--help")
        assert completed.returncode == 0, command


def test_cli_reference_is_up_to_date() -> None:
    written = (Path(__file__).parents[1] / "docs/cli.md").read_text()
    assert written == write_reference() + "\n", "write it with: make openapi"


def test_webhook_secret_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_DATA_DIR", str(tmp_path))
    created, again = mmad("webhook-secret"), mmad("webhook-secret")
    assert created.stdout == again.stdout
    assert created.stdout.startswith("whsec_")
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", "whsec_short")
    invalid = mmad("webhook-secret")
    assert (invalid.returncode, invalid.stdout) == (1, "")
    assert "24 to 64 random bytes" in invalid.stderr


def test_wrong_usage_exits_with_status_2() -> None:
    for arguments in (
        ["nothing"],
        ["detect"],
        ["detect", "x", "--min-score", "2"],
        ["detect", "x", "--engine", "coal"],
    ):
        assert mmad(*arguments).returncode == 2, arguments


def test_detect_prints_one_json_document(clip: Path) -> None:
    completed = mmad_process("detect", str(clip), "--json", "--min-score", "0")
    assert completed.returncode == 0
    result = json.loads(completed.stdout)
    assert result["video"] == str(clip)
    assert 0 < len(result["detections"]) < 200  # NMS removes some of the 200 proposals
    assert result["hidden"]["count"] == 0
    assert "untrained" not in completed.stderr


def test_detect_of_several_videos_prints_a_list_and_reports_failures(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    completed = mmad_process("detect", str(clip), str(tmp_path / "text.mp4"), str(tmp_path / "nothing.mp4"), "--json")
    assert completed.returncode == 1
    assert [result["video"] for result in json.loads(completed.stdout)] == [str(clip)]
    assert "no video that can be read" in completed.stderr
    assert "No such file" in completed.stderr


def test_engines_return_the_same_detections(clip: Path, tmp_path: Path) -> None:
    auto = json.loads(mmad("detect", str(clip), "--json").stdout)
    for engine in ("openvino", "onnx", "torch"):
        out = tmp_path / f"{engine}.json"
        completed = mmad("detect", str(clip), "--engine", engine, "--format", "json", "--out", str(out))
        assert completed.returncode == 0
        assert completed.stdout == ""
        result = json.loads(out.read_text())
        assert result["model"]["engine"] == engine
        assert [(detection["action"], detection["start_s"]) for detection in result["detections"]] == [
            (detection["action"], detection["start_s"]) for detection in auto["detections"]
        ]


def test_detect_sends_no_telemetry(clip: Path, tmp_path: Path) -> None:
    """OpenVINO's telemetry would create a folder in the home directory."""
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "mmad", "detect", str(clip), "--engine", "openvino"]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {
        "HOME": str(tmp_path / "home"),
        "MMAD_DATA_DIR": str(tmp_path / "data"),
    }
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert list((tmp_path / "home").iterdir()) == []


def test_detect_prints_a_table_and_warnings(clip: Path) -> None:
    completed = mmad("detect", str(clip))
    assert "body part" in completed.stdout
    assert "untrained_model" in completed.stderr


def test_detect_follows_settings_and_region(clip: Path, tmp_path: Path) -> None:
    def detect(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return mmad("detect", str(clip), "--json", *arguments, **settings)

    too_long = detect(MMAD_MAX_DURATION_S="2")
    assert too_long.returncode == 1
    assert "the limit is 2 s (MMAD_MAX_DURATION_S)" in too_long.stderr
    assert json.loads(detect(MMAD_ENGINE="torch").stdout)["model"]["engine"] == "torch"
    left = json.loads(detect("--region", "0,0,0.5,1").stdout)
    assert left["settings"]["region"] == {"x": 0, "y": 0, "width": 0.5, "height": 1}
    assert left["detections"] != json.loads(detect().stdout)["detections"]
    assert detect("--region", "0,0,2,1").returncode == 2
    missing_folder = detect("--out", str(tmp_path / "no/such/folder/x.json"))
    assert missing_folder.returncode == 1
    assert "x.json" in missing_folder.stderr
    assert json.loads(detect(MMAD_DATA_DIR="/proc/nothing").stdout)["detections"]
    assert detect(MMAD_BUNDLE=str(tmp_path)).returncode == 1


def test_missing_package_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    for name in ("av", "fastapi"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError('not here')")
    for arguments in (["detect", "x.mp4"], ["bench"], ["api"]):
        completed = mmad_process(*arguments, PYTHONPATH=str(tmp_path))
        assert completed.returncode == 1
        assert "pip install 'mmad[serve]'" in completed.stderr
        assert "Traceback" not in completed.stderr


def test_labels_lists_actions_and_body_parts() -> None:
    taxonomy = json.loads(mmad("labels", "--json").stdout)
    assert len(taxonomy["actions"]) == 52
    assert len(taxonomy["bodies"]) == 7
    assert "nodding" in mmad("labels").stdout


def test_bundle_show_and_verify(bundle: Bundle, tmp_path: Path) -> None:
    folder = str(bundle.folder)
    assert json.loads(mmad("bundle", "show", folder, "--json").stdout)["trained_on"] is None
    assert "nothing: its answers have no meaning" in mmad("bundle", "show", folder).stdout
    assert "all files fit" in " ".join(mmad("bundle", "verify", folder).stdout.split())
    broken = mmad("bundle", "verify", str(tmp_path))
    assert broken.returncode == 1
    assert "no bundle at" in broken.stderr


def test_submit_sends_and_waits(service: Service, clip: Path) -> None:
    sent = json.loads(mmad("submit", str(clip), "--url", service.url, "--json").stdout)
    assert sent["state"] in ("queued", "running", "succeeded")
    waited = mmad("submit", str(clip), "--url", service.url, "--wait", "--json")
    assert json.loads(waited.stdout)["detections"]
    assert "job " in waited.stderr
    assert "body part" in mmad("submit", str(clip), "--url", service.url, "--wait").stdout


def test_submit_reports_errors(service: Service, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    refused = mmad("submit", str(tmp_path / "text.mp4"), "--url", service.url)
    assert refused.returncode == 1
    assert "[not_a_video]" in refused.stderr
    unreachable = mmad("submit", str(tmp_path / "text.mp4"), "--url", "http://127.0.0.1:9")
    assert unreachable.returncode == 1
    assert "start one with mmad serve" in unreachable.stderr
    missing = mmad("submit", str(tmp_path / "missing.mp4"), "--url", service.url)
    assert missing.returncode == 1


def test_bench_measures_every_engine() -> None:
    report = json.loads(mmad("bench", "--seconds", "1", "--rounds", "1", "--json").stdout)
    names = [row["name"] for row in report["rows"]]
    assert names == [
        "decode alone", "decode alone, sandboxed", "whole way, openvino", "whole way, onnx", "whole way, torch",
    ]  # fmt: skip
    assert all(row["median_s"] > 0 for row in report["rows"])


def test_bench_without_engines_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "ENGINES", {})
    completed = mmad("bench", "--seconds", "1", "--rounds", "1")
    assert completed.returncode == 1
    assert "no engine can be loaded: install openvino" in completed.stderr


def test_invalid_setting_error_names_the_setting() -> None:
    completed = mmad_process("api", MMAD_MAX_DURATION_S="-3")
    assert completed.returncode == 2
    assert "MMAD_MAX_DURATION_S='-3'" in completed.stderr
