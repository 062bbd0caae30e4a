"""Cache the keypoints that a bundle finds in the videos of a data set, as a data set of its own.

    python -m training.keypoint_cache --bundle BUNDLE --data FOLDER... --out FOLDER [--looks 4] [--seed 0]
        [--set key=value]...

Stages with `given: keypoints, keypoint_noise: 0` are then trained on keypoints with real errors, without decoding.
Each copy of a video has its own random augmentation by the recipe's `augment`, except for mirroring, which is done in
training. Existing copies are reused. `mmad fine-tune` does the same.
"""

import hashlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.arrays import Doubles, Images, Integers
from model.bundle import InputConfig
from training.augment import Example, make_example, resize_to_input
from training.dataset import (
    DatasetError,
    Keypoints,
    Sample,
    VideoDataset,
    distinct_names,
    load_dataset,
    read_frames,
    read_keypoints,
)
from training.files import write_aside
from training.keypoints import Finder
from training.people.film import KEYPOINT_NAMES
from training.recipe import AugmentConfig, Recipe, load_recipe

# Augmentation that is done in training, on the keypoints: the cache holds whole, unmirrored videos.
_TRAINING_ONLY = {"flip": 0.0, "truncate": 0.0, "freeze": 0.0, "speed": (1.0, 1.0)}
# Augmentation that is done in the cache and not again in training.
_CACHE_ONLY = {"scale": (1.0, 1.0), "close": 0.0}
TRAIN, VAL = "train", "val"
_PART = 512  # frames per part of a video that is in memory at once


def has_fixed_keypoints(recipe: Recipe) -> bool:
    """Return whether a run does not train the finder of its start bundle, so that keypoints can be cached."""
    is_start_finder = recipe.architecture.finds_keypoints and recipe.finder is None
    return is_start_finder and all(
        stage.objective in ("detection", "dense") and stage.tuning != "all" for stage in recipe.stages
    )


def to_keypoint_recipe(recipe: Recipe) -> Recipe:
    """Convert a recipe for frames to one for cached keypoints."""
    given = {"given": "keypoints", "keypoint_noise": 0.0}
    return recipe.model_copy(
        update={
            "augment": recipe.augment.model_copy(update=_CACHE_ONLY),
            "stages": tuple(stage.model_copy(update=given) for stage in recipe.stages),
        }
    )


def compute_fingerprint(finder: Finder, dataset: VideoDataset, recipe: Recipe, copies: int) -> str:
    """Return a SHA-256 of everything that determines the contents of a copy, but not the number of copies."""
    augment = recipe.augment.model_dump(mode="json") if copies else None
    videos = [
        [one.name, str(one.path.resolve()), one.path.stat().st_mtime_ns, one.segments.tolist(), one.labels.tolist()]
        for one in dataset.samples
    ]
    config = recipe.input.model_dump(mode="json"), recipe.data.margin
    inputs = [finder.bundle.weights_sha256, recipe.seed, augment, config, videos]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def write_keypoints(
    finder: Finder,
    dataset: VideoDataset,
    recipe: Recipe,
    out: Path,
    copies: int,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
) -> None:
    """Find keypoints in all videos and write a data set without frames: sidecars, records and mmad.json.

    `copies` is the number of augmented copies of each video, as subset `train`; 0 for one copy without augmentation, as
    subset `val`. `on_progress` gets the numbers of finished and of all copies. Raises DatasetError if the folder was
    written with another finder, recipe or data set, or the keypoints have no names.
    """
    fingerprint = compute_fingerprint(finder, dataset, recipe, copies)
    fingerprint_file = out / "found.json"
    if fingerprint_file.exists() and json.loads(fingerprint_file.read_text("utf-8")) != fingerprint:
        raise DatasetError(f"{out} holds copies of another bundle, recipe or data: take another --out")
    for name in ("sidecars", "records"):
        (out / name).mkdir(parents=True, exist_ok=True)
    fingerprint_file.write_text(json.dumps(fingerprint) + "\n", encoding="utf-8")
    augment = recipe.augment.model_copy(update=_TRAINING_ONLY)
    videos: dict[str, Any] = {}
    each = max(copies, 1)
    for index, (sample, stem) in enumerate(zip(dataset.samples, distinct_names(dataset.samples), strict=True)):
        for copy in range(each):
            on_progress(index * each + copy, len(dataset.samples) * each)
            name = f"{stem}-{copy}" if copies else stem
            record = out / "records" / f"{name}.json"
            if not record.exists():
                seed = np.random.SeedSequence((recipe.seed, index, copy))
                video = _augment(sample, recipe, augment, seed) if copies else _read_unaugmented(sample, recipe)
                _find_keypoints(finder, sample, video, TRAIN if copies else VAL, recipe.input, out, name)
            videos[name] = json.loads(record.read_text("utf-8"))
    (out / "mmad.json").write_text(json.dumps(videos) + "\n", encoding="utf-8")


# One copy of a video: consecutive parts of its frames at the network's input size, segments (m, 2) in frames, labels.
_Copy = tuple[Iterator[Images], Doubles, Integers]


def _augment(sample: Sample, recipe: Recipe, augment: AugmentConfig, seed: np.random.SeedSequence) -> _Copy:
    """Augment a whole video; all parts are augmented in the same way, by the same seed."""
    frames = read_frames(sample, recipe.input, recipe.data.margin, recipe.data.cache)
    keypoints = read_keypoints(sample, recipe.input.fps, len(frames))

    def augment_part(part: Images, config: InputConfig, keypoints: Keypoints | None) -> Example:
        rng, longest = np.random.default_rng(seed), max(len(part), config.window_frames)
        return make_example(rng, part, sample.segments, sample.labels, keypoints, config, augment, longest)

    # The segments do not depend on the frames: compute them on single black pixels.
    example = augment_part(
        np.zeros((len(frames), 1, 1, 3), np.uint8), recipe.input.model_copy(update={"height": 1, "width": 1}), keypoints
    )
    at_once = _PART if keypoints is None else len(frames)  # close-ups depend on the keypoints of all frames
    parts = (augment_part(part, recipe.input, keypoints).frames for part in _iterate_parts(frames, at_once))
    return parts, example.segments, example.labels


def _read_unaugmented(sample: Sample, recipe: Recipe) -> _Copy:
    config = recipe.input
    frames = read_frames(sample, config, 1.0, recipe.data.cache)
    segments = np.minimum(sample.segments * config.fps, len(frames))
    inside = segments[:, 0] < segments[:, 1]
    parts = (resize_to_input(part, config) for part in _iterate_parts(frames, _PART))
    return parts, segments[inside], sample.labels[inside]


def _iterate_parts(frames: Images, at_once: int) -> Iterator[Images]:
    return (frames[begin : begin + at_once] for begin in range(0, len(frames), at_once))


def _find_keypoints(
    finder: Finder, sample: Sample, video: _Copy, subset: str, config: InputConfig, out: Path, name: str
) -> None:
    """Find the keypoints of one copy and write its sidecar, then its record, which marks it as complete."""
    parts, segments, labels = video
    # Memory-mapped frames are read-only, which torch does not accept: copy them.
    keypoints = np.concatenate([finder.find(np.array(part)) for part in parts])
    np.savez(
        out / "sidecars" / f"{name}.npz",
        keypoints=(keypoints[..., :2] * (config.width, config.height)).astype(np.float32),
        keypoints_visible=keypoints[..., 2].astype(np.float32),
        keypoint_names=np.array(_get_keypoint_names(sample, keypoints.shape[1])),
    )
    actions = [
        [int(label), *(round(float(moment) / config.fps, 4) for moment in segment)]
        for label, segment in zip(labels, segments, strict=True)
    ]
    record = {
        "subset": subset, "duration": round(len(keypoints) / config.fps, 4), "frames": len(keypoints),
        "fps": config.fps, "height": config.height, "width": config.width, "actions": actions,
    }  # fmt: skip
    with write_aside(out / "records" / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")


def _get_keypoint_names(sample: Sample, count: int) -> tuple[str, ...]:
    """Return the names of the keypoints: those of the sidecar, or of `mmad synth`, on which finders are trained."""
    keypoints = read_keypoints(sample, 1.0, 1)
    names = KEYPOINT_NAMES if keypoints is None else keypoints.names
    if len(names) != count:
        raise DatasetError(
            f"{sample.path}: {count} keypoints are found, and names of {len(names)} are known: take a bundle whose "
            "finder learned from mmad synth, videos with its sidecars, or fine-tune with --looks 0"
        )
    return names


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(description="Keypoints as a bundle finds them, as a data set.")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle whose finder is used, at its input size")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of videos of one person each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=4, help="augmented copies of each video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="demo", help="recipe whose augment is taken")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value, over the recipe's")
    options = parser.parse_args()
    if options.looks < 1:
        parser.error(f"--looks {options.looks}: at least 1")
    finder = Finder(options.bundle)
    recipe = load_recipe(options.config, [*options.overrides, f"seed={options.seed}"])
    recipe = recipe.model_copy(update={"input": finder.bundle.manifest.input})
    dataset = load_dataset(options.data, finder.bundle.manifest.taxonomy, TRAIN, 0.0).with_frames()

    def on_progress(done: int, count: int) -> None:
        if done % 50 == 0:
            sys.stderr.write(f"{done} of {count} copies\n")

    write_keypoints(finder, dataset, recipe, options.out, options.looks, on_progress)
    sys.stdout.write(f"{options.out}: {len(dataset.samples) * options.looks} copies of {len(dataset.samples)} videos\n")


if __name__ == "__main__":
    main()
