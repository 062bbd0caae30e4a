"""Nothing but the bundle knows how many actions there are: a taxonomy of 9 in 2 parts goes the whole way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmad.benchmark import write_clip
from model import export
from tests.test_export import random_network, small_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nine")
    manifest = small_manifest("dsta")
    export.save_checkpoint(folder / "checkpoint", random_network(manifest), manifest)
    export.export_bundle(folder / "checkpoint", folder / "bundle")
    write_clip(folder / "clip.mp4", seconds=6, width=96, height=64)
    return folder


def mmad(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "mmad", *arguments]
    environment = os.environ | {"MMAD_BUNDLE": str(folder / "bundle"), "MMAD_DATA_DIR": str(folder / "data")}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_from_detection_to_evaluation(folder: Path) -> None:
    assert len(mmad(folder, "labels", "--json")["actions"]) == 9
    result = mmad(folder, "detect", str(folder / "clip.mp4"), "--min-score", "0", "--json")
    assert {one["action"]["id"] for one in result["detections"]} <= set(range(9))
    assert {one["body"]["code"] for one in result["body_segments"]} <= {"X", "Y"}
    assert len(result["summary"]["by_body"]) == 2
    (folder / "found.json").write_text(json.dumps(result))
    best = max(result["detections"], key=lambda one: one["score"])
    actions = [[best["action"]["id"], best["start_s"], best["end_s"]]]
    (folder / "truth.json").write_text(json.dumps({"clip": {"subset": "val", "duration": 6, "actions": actions}}))
    files = ["--annotations", str(folder / "truth.json"), "--predictions", str(folder / "found.json")]
    report = mmad(folder, "evaluate", *files, "--json")
    assert report["videos"] == 1
    assert report["action"]["average"] == pytest.approx(1)
    assert list(report["body"]["per_class"]) == [best["body"]["code"]]
