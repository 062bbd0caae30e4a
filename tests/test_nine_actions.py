"""Detection and evaluation with a taxonomy of 9 actions and 2 body parts: the number of actions is not hard-coded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmad.benchmark import write_clip
from model.bundle import Bundle
from tests.command import mmad


@pytest.fixture
def run_mmad(small_bundle: Callable[[str], Bundle], tmp_path: Path) -> Callable[..., Any]:
    """Run a command with the bundle and return its JSON output."""
    environment = {"MMAD_BUNDLE": str(small_bundle("dsta").folder), "MMAD_DATA_DIR": str(tmp_path / "data")}

    def run(*arguments: str) -> Any:
        completed = mmad(*arguments, **environment)
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout)

    return run


def test_custom_taxonomy_from_detection_to_evaluation(run_mmad: Callable[..., Any], tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=6, width=96, height=64)
    assert len(run_mmad("labels", "--json")["actions"]) == 9
    result = run_mmad("detect", str(tmp_path / "clip.mp4"), "--min-score", "0", "--json")
    assert {detection["action"]["id"] for detection in result["detections"]} <= set(range(9))
    assert {segment["body"]["code"] for segment in result["body_segments"]} <= {"X", "Y"}
    assert len(result["summary"]["by_body"]) == 2
    (tmp_path / "predictions.json").write_text(json.dumps(result))
    best = max(result["detections"], key=lambda detection: detection["score"])
    actions = [[best["action"]["id"], best["start_s"], best["end_s"]]]
    (tmp_path / "truth.json").write_text(json.dumps({"clip": {"subset": "val", "duration": 6, "actions": actions}}))
    files = ["--annotations", str(tmp_path / "truth.json"), "--predictions", str(tmp_path / "predictions.json")]
    report = run_mmad("evaluate", *files, "--json")
    assert report["videos"] == 1
    assert report["action"]["average"] == pytest.approx(1)
    assert list(report["body"]["per_class"]) == [best["body"]["code"]]
