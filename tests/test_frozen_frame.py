"""Frozen frame test: scores from movement count, scores from a still picture do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle
from model.engines import RawPoints, load_engine
from model.segments import point_grid
from tests import clips
from training.evaluation.frozen_frame_test import (
    FrozenFrameEngine,
    FrozenFrameTestError,
    chance_rank,
    choose_frozen_frames,
    parse_action,
    rank,
    run_frozen_frame_test,
    to_document,
)

POSTURE, MOVEMENT = 3, 20


class FakeEngine:
    """Engine that scores POSTURE high for white frames, MOVEMENT lower for changes, and all actions beyond the video."""

    name, device, precision = "fake", "cpu", "fp32"

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.positions, _ = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
        self.actions = len(manifest.taxonomy.actions)

    def run(self, pictures: np.ndarray, mask: np.ndarray) -> RawPoints:
        frames = pictures.reshape(-1, *pictures.shape[2:])[: mask.sum()].astype(float)
        logits = np.full((len(self.positions), self.actions), -4, np.float32)
        logits[0, POSTURE] = 3 if (frames.mean(axis=(1, 2, 3)) > 128).any() else -4
        logits[0, MOVEMENT] = 2 if (np.abs(np.diff(frames, axis=0)) > 100).any() else -4
        logits[~mask[self.positions]] = 9
        return RawPoints(logits, np.zeros((len(self.positions), 2), np.float32))


def clip_path(bundle: Bundle, action: int, folder: Path) -> Path:
    return folder / f"{bundle.manifest.taxonomy.actions[action].code}_white_0001.mp4"


@pytest.mark.parametrize("stills", [1, 3])
def test_movement_rank_improves_and_posture_rank_drops(bundle: Bundle, tmp_path: Path, stills: int) -> None:
    clip = clips.white_between(clip_path(bundle, MOVEMENT, tmp_path), 1.0, 2.0, 3)
    result = run_frozen_frame_test(bundle, FakeEngine(bundle), clip, stills=stills)
    assert result.label == MOVEMENT
    assert result.action.ranks == (2, 1)
    assert result.action.still[POSTURE] == result.action.clip[POSTURE] == pytest.approx(1 / (1 + np.exp(-3)))
    assert result.action.gain[MOVEMENT] == pytest.approx(1 / (1 + np.exp(-2)) - 1 / (1 + np.exp(4)))
    assert result.body.ranks == (2, 1)
    # Posture ranks first by raw score. Without the still's score it ties with the 51 actions that gain nothing from
    # movement, behind the action that does.
    posture = run_frozen_frame_test(bundle, FakeEngine(bundle), clip, POSTURE, stills)
    assert posture.action.ranks == (1, 27)


@pytest.mark.parametrize("start_s", [1.0, 18.0])
def test_movement_anywhere_in_long_clip_counts(bundle: Bundle, tmp_path: Path, start_s: float) -> None:
    clip = clips.white_between(clip_path(bundle, MOVEMENT, tmp_path), start_s, start_s + 0.5, 20)
    result = run_frozen_frame_test(bundle, FakeEngine(bundle), clip)
    assert result.windows == 2
    assert result.action.ranks.moving <= 2
    assert result.action.gain[MOVEMENT] > 0.8


def test_scores_are_network_scores_before_thresholds(bundle: Bundle, tmp_path: Path) -> None:
    clip = clips.pattern(tmp_path / "A1_short.mp4", seconds=1.5)
    result = run_frozen_frame_test(bundle, load_engine(bundle, "torch"), clip)
    assert result.action.clip.shape == (52,)
    assert len(np.unique(result.action.clip)) == 52
    # Proposals have the same highest scores.
    with clip.open("rb") as file:
        from model.detector import Detector

        proposals = Detector(bundle, load_engine(bundle, "torch")).detect(file).proposals
    best = proposals.labels[0]
    assert proposals.scores[0] == pytest.approx(result.action.clip[best], abs=1e-5)
    assert result.body.clip.max() == result.action.clip.max()


def test_rank_of_equal_or_random_scores_is_chance() -> None:
    expected, spread = chance_rank(52, 1)
    assert rank(np.full(52, 0.3), 17) == expected == 26.5
    ranks = [rank(np.random.default_rng(seed).random(52), 17) for seed in range(2000)]
    assert np.mean(ranks) == pytest.approx(expected, abs=1)
    assert np.std(ranks) == pytest.approx(spread, abs=0.5)
    assert rank(np.array([0.1, 0.9, 0.5]), 1) == 1
    assert rank(np.array([0.1, 0.9, 0.5]), 0) == 3


def test_still_repeats_one_frame_over_whole_window(bundle: Bundle) -> None:
    shown: list[np.ndarray] = []

    class RecordingEngine(FakeEngine):
        def run(self, pictures: np.ndarray, mask: np.ndarray) -> RawPoints:
            shown.append(pictures)
            return super().run(pictures, mask)

    # 20 frames, then the last repeated to fill the second clip: the middle is frame 10, not 16.
    numbers = np.minimum(np.arange(32), 19).astype(np.uint8)
    pictures = np.broadcast_to(numbers[:, None, None, None], (32, 4, 4, 3)).reshape(2, 16, 4, 4, 3)
    FrozenFrameEngine(RecordingEngine(bundle), bundle.manifest, 1).run(pictures, np.arange(192) < 20)
    assert np.array_equal(shown[0], pictures)
    assert shown[1].shape == pictures.shape
    assert np.unique(shown[1]).tolist() == [10]


def test_clip_without_person_ranks_as_chance(bundle: Bundle, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.detector import Detector
    from model.segments import Proposals

    monkeypatch.setattr(Detector, "propose", lambda self, cut: list(cut) and Proposals.empty())
    result = run_frozen_frame_test(bundle, FakeEngine(bundle), clip, MOVEMENT)
    assert (result.windows, result.action.ranks, result.body.ranks) == (0, (26.5, 26.5), (4, 4))
    command = CliRunner().invoke(app, ["control", str(clip), "--action", "B1"])
    assert "nobody was found in it" in command.stderr


def test_frozen_frames_are_middles_of_equal_parts() -> None:
    assert choose_frozen_frames(45, 1) == [22]
    assert choose_frozen_frames(45, 3) == [7, 22, 37]
    assert choose_frozen_frames(1, 3) == [0, 0, 0]


def test_document_has_mean_ranks_and_chance(bundle: Bundle, tmp_path: Path) -> None:
    clip = clips.white_between(clip_path(bundle, MOVEMENT, tmp_path), 1.0, 2.0, 3)
    results = [run_frozen_frame_test(bundle, FakeEngine(bundle), clip, label) for label in (MOVEMENT, POSTURE)]
    document = to_document(results, bundle.manifest.taxonomy)
    ranks = document["mean_rank"]["action"]  # type: ignore[index]
    assert (ranks["raw"], ranks["moving"], ranks["chance"]) == (1.5, 14, 26.5)
    assert ranks["chance_deviation"] == pytest.approx(np.sqrt((52**2 - 1) / 12 / 2))


def test_clip_name_must_contain_class(bundle: Bundle, tmp_path: Path) -> None:
    taxonomy = bundle.manifest.taxonomy
    assert taxonomy.actions[parse_action(Path("A2_turning_around_0078.mp4"), taxonomy)].name == "turning around"
    with pytest.raises(FrozenFrameTestError, match="'A22' is no class of the bundle"):
        parse_action(Path("A22_turning.mp4"), taxonomy)
    (tmp_path / "A2_text.mp4").write_text("hello")
    with pytest.raises(FrozenFrameTestError, match=r"A2_text\.mp4: the file is no video"):
        run_frozen_frame_test(bundle, FakeEngine(bundle), tmp_path / "A2_text.mp4")


def run_json(*arguments: str) -> dict[str, Any]:
    with structlog.testing.capture_logs():  # logs would mix with the JSON document
        result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_control_command_takes_class_as_option(clip: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["control", str(clip)])
    assert refused.exit_code == 1
    assert "give --action" in refused.stderr
    accepted = CliRunner().invoke(app, ["control", str(clip), "--action", "B1", "--stills", "1"])
    assert accepted.exit_code == 0, accepted.output
    assert "without stills" in accepted.stdout
    assert "26.5" in accepted.stdout
    named_clip = shutil.copy(clip, tmp_path / "B1_nod.mp4")
    document = run_json("control", str(named_clip))
    assert document["clips"][0]["action"] == "B1"
    assert len(document["clips"][0]["action_scores"]) == 52


@pytest.mark.shared("data/clips")
def test_real_clips_are_ranked(shared: Path) -> None:
    paths = sorted((shared / "data/clips").glob("*.mp4"))
    document = run_json("control", *map(str, paths))
    assert [entry["action"] for entry in document["clips"]] == [path.name.split("_")[0] for path in paths]
    assert all(1 <= entry["action_ranks"]["moving"] <= 52 for entry in document["clips"])
    assert all(1 <= entry["body_ranks"]["raw"] <= 7 for entry in document["clips"])
