"""The still control: what movement shows counts, what a still picture suggests does not."""

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


class Onlooker:
    """POSTURE scores high where something is white, MOVEMENT less where anything changes; beyond the video all do."""

    name, device, precision = "onlooker", "cpu", "fp32"

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


def named(bundle: Bundle, action: int, folder: Path) -> Path:
    return folder / f"{bundle.manifest.taxonomy.actions[action].code}_white_0001.mp4"


@pytest.mark.parametrize("stills", [1, 3])
def test_movement_stays_and_posture_goes(bundle: Bundle, tmp_path: Path, stills: int) -> None:
    clip = clips.white_between(named(bundle, MOVEMENT, tmp_path), 1.0, 2.0, 3)
    seen = run_frozen_frame_test(bundle, Onlooker(bundle), clip, stills=stills)
    assert seen.label == MOVEMENT
    assert seen.action.ranks == (2, 1)
    assert seen.action.still[POSTURE] == seen.action.clip[POSTURE] == pytest.approx(1 / (1 + np.exp(-3)))
    assert seen.action.gain[MOVEMENT] == pytest.approx(1 / (1 + np.exp(-2)) - 1 / (1 + np.exp(4)))
    assert seen.body.ranks == (2, 1)
    # A hit by posture alone is first among the raw scores, and as good as nothing without the still's: the middle of
    # the 51 that movement adds nothing to, behind the one that it does.
    hit = run_frozen_frame_test(bundle, Onlooker(bundle), clip, POSTURE, stills)
    assert hit.action.ranks == (1, 27)


@pytest.mark.parametrize("start_s", [1.0, 18.0])
def test_a_movement_anywhere_in_a_long_clip_counts(bundle: Bundle, tmp_path: Path, start_s: float) -> None:
    clip = clips.white_between(named(bundle, MOVEMENT, tmp_path), start_s, start_s + 0.5, 20)
    seen = run_frozen_frame_test(bundle, Onlooker(bundle), clip)
    assert seen.windows == 2
    assert seen.action.ranks.moving <= 2
    assert seen.action.gain[MOVEMENT] > 0.8


def test_scores_are_the_networks_own_before_any_threshold(bundle: Bundle, tmp_path: Path) -> None:
    clip = clips.pattern(tmp_path / "A1_short.mp4", seconds=1.5)
    seen = run_frozen_frame_test(bundle, load_engine(bundle, "torch"), clip)
    assert seen.action.clip.shape == (52,)
    assert len(np.unique(seen.action.clip)) == 52
    # What is proposed has the same highest scores.
    with clip.open("rb") as file:
        from model.detector import Detector

        found = Detector(bundle, load_engine(bundle, "torch")).detect(file).proposals
    best = found.labels[0]
    assert found.scores[0] == pytest.approx(seen.action.clip[best], abs=1e-5)
    assert seen.body.clip.max() == seen.action.clip.max()


def test_ranks_of_those_who_know_nothing_are_chance() -> None:
    guessed, spread = chance_rank(52, 1)
    assert rank(np.full(52, 0.3), 17) == guessed == 26.5
    ranks = [rank(np.random.default_rng(seed).random(52), 17) for seed in range(2000)]
    assert np.mean(ranks) == pytest.approx(guessed, abs=1)
    assert np.std(ranks) == pytest.approx(spread, abs=0.5)
    assert rank(np.array([0.1, 0.9, 0.5]), 1) == 1
    assert rank(np.array([0.1, 0.9, 0.5]), 0) == 3


def test_a_still_is_one_frame_of_the_video_over_the_whole_window(bundle: Bundle) -> None:
    shown: list[np.ndarray] = []

    class Recorder(Onlooker):
        def run(self, pictures: np.ndarray, mask: np.ndarray) -> RawPoints:
            shown.append(pictures)
            return super().run(pictures, mask)

    # 20 frames, then the last again until the second clip is full: the middle is the 10th, not the 16th.
    numbers = np.minimum(np.arange(32), 19).astype(np.uint8)
    pictures = np.broadcast_to(numbers[:, None, None, None], (32, 4, 4, 3)).reshape(2, 16, 4, 4, 3)
    FrozenFrameEngine(Recorder(bundle), bundle.manifest, 1).run(pictures, np.arange(192) < 20)
    assert np.array_equal(shown[0], pictures)
    assert shown[1].shape == pictures.shape
    assert np.unique(shown[1]).tolist() == [10]


def test_a_clip_in_which_nobody_is_found_ranks_as_a_guess(
    bundle: Bundle, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.detector import Detector
    from model.segments import Proposals

    monkeypatch.setattr(Detector, "propose", lambda self, cut: list(cut) and Proposals.empty())
    seen = run_frozen_frame_test(bundle, Onlooker(bundle), clip, MOVEMENT)
    assert (seen.windows, seen.action.ranks, seen.body.ranks) == (0, (26.5, 26.5), (4, 4))
    ended = CliRunner().invoke(app, ["control", str(clip), "--action", "B1"])
    assert "nobody was found in it" in ended.stderr


def test_stills_are_the_middles_of_parts() -> None:
    assert choose_frozen_frames(45, 1) == [22]
    assert choose_frozen_frames(45, 3) == [7, 22, 37]
    assert choose_frozen_frames(1, 3) == [0, 0, 0]


def test_means_over_clips_stand_beside_chance(bundle: Bundle, tmp_path: Path) -> None:
    clip = clips.white_between(named(bundle, MOVEMENT, tmp_path), 1.0, 2.0, 3)
    seen = [run_frozen_frame_test(bundle, Onlooker(bundle), clip, label) for label in (MOVEMENT, POSTURE)]
    document = to_document(seen, bundle.manifest.taxonomy)
    ranks = document["mean_rank"]["action"]  # type: ignore[index]
    assert (ranks["raw"], ranks["moving"], ranks["chance"]) == (1.5, 14, 26.5)
    assert ranks["chance_deviation"] == pytest.approx(np.sqrt((52**2 - 1) / 12 / 2))


def test_a_clip_must_say_its_class(bundle: Bundle, tmp_path: Path) -> None:
    taxonomy = bundle.manifest.taxonomy
    assert taxonomy.actions[parse_action(Path("A2_turning_around_0078.mp4"), taxonomy)].name == "turning around"
    with pytest.raises(FrozenFrameTestError, match="'A22' is no class of the bundle"):
        parse_action(Path("A22_turning.mp4"), taxonomy)
    (tmp_path / "A2_text.mp4").write_text("hello")
    with pytest.raises(FrozenFrameTestError, match=r"A2_text\.mp4: the file is no video"):
        run_frozen_frame_test(bundle, Onlooker(bundle), tmp_path / "A2_text.mp4")


def run_json(*arguments: str) -> dict[str, Any]:
    with structlog.testing.capture_logs():  # which the runner would mix with the document
        ended = CliRunner().invoke(app, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_the_command_takes_the_class_as_an_option(clip: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["control", str(clip)])
    assert refused.exit_code == 1
    assert "give --action" in refused.stderr
    ended = CliRunner().invoke(app, ["control", str(clip), "--action", "B1", "--stills", "1"])
    assert ended.exit_code == 0, ended.output
    assert "without stills" in ended.stdout
    assert "26.5" in ended.stdout
    spaced = shutil.copy(clip, tmp_path / "B1_nod.mp4")
    document = run_json("control", str(spaced))
    assert document["clips"][0]["action"] == "B1"
    assert len(document["clips"][0]["action_scores"]) == 52


@pytest.mark.shared("data/clips")
def test_real_clips_are_ranked(shared: Path) -> None:
    found = sorted((shared / "data/clips").glob("*.mp4"))
    document = run_json("control", *map(str, found))
    assert [one["action"] for one in document["clips"]] == [path.name.split("_")[0] for path in found]
    assert all(1 <= one["action_ranks"]["moving"] <= 52 for one in document["clips"])
    assert all(1 <= one["body_ranks"]["raw"] <= 7 for one in document["clips"])
