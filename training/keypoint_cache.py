"""Joints as a bundle finds them in a data set's pictures, kept as a data set of their own.

    python -m training.keypoint_cache --bundle BUNDLE --data FOLDER... --out FOLDER [--looks 4] [--seed 0]
        [--set key=value]...

What reads joints then learns from their true errors, `given: joints, joint_error: 0`, without looking at a picture
again: a step costs a tenth. Every look at a video changes its pictures anew, as the recipe's `augment` says; mirror
images are left to the training. Looks that are there already are not taken again. `mmad fine-tune` does the same with
users' videos.
"""

import hashlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.bundle import InputConfig
from training.augment import Example, make_example, plain_example
from training.dataset import (
    Corpus,
    CorpusError,
    Floats,
    Frames,
    Integers,
    Item,
    Joints,
    distinct_names,
    load_corpus,
    read_frames,
    read_joints,
)
from training.joints import Finder
from training.people.film import JOINT_NAMES
from training.recipe import AugmentConfig, Recipe, load_recipe

# A video stays whole and as it is: cutting and mirroring are done in training, to found joints as to given ones.
_WHOLE = {"flip": 0.0, "truncate": 0.0, "freeze": 0.0, "still": 0.0, "speed": (1.0, 1.0)}
# What is not to be done again then.
_DONE = {"scale": (1.0, 1.0), "close": 0.0}
TRAIN, VAL = "train", "val"
_PART = 512  # frames in memory at once


def finds_only(recipe: Recipe) -> bool:
    """Whether a run leaves what finds joints as its first bundle has it: they need not be found in every step then."""
    stays = recipe.architecture.finds_joints and recipe.finder is None
    return stays and all(
        stage.objective in ("detection", "dense") and stage.tuning != "all" for stage in recipe.stages
    )


def as_read(recipe: Recipe) -> Recipe:
    """The recipe for a data set of found joints, of one for pictures."""
    given = {"given": "joints", "joint_error": 0.0}
    return recipe.model_copy(
        update={
            "augment": recipe.augment.model_copy(update=_DONE),
            "stages": tuple(stage.model_copy(update=given) for stage in recipe.stages),
        }
    )


def claim_of(finder: Finder, corpus: Corpus, recipe: Recipe, looks: int) -> str:
    """What looks are made with, as hex digits; those of several must not be mixed. More looks are no others."""
    augment = recipe.augment.model_dump(mode="json") if looks else None
    videos = [
        [
            item.name,
            str(item.path.resolve()),
            item.path.stat().st_mtime_ns,
            item.segments.tolist(),
            item.labels.tolist(),
        ]
        for item in corpus.items
    ]
    seen = recipe.input.model_dump(mode="json"), recipe.data.margin
    made = [finder.bundle.weights_sha256, recipe.seed, augment, seen, videos]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def keep(
    finder: Finder,
    corpus: Corpus,
    recipe: Recipe,
    out: Path,
    looks: int,
    watch: Callable[[int, int], None] = lambda done, count: None,
) -> None:
    """Write a data set without pictures: sidecars, records, mmad.json.

    Args:
        finder: what finds joints. corpus: videos with pictures; where they have sidecars, these tell what a part of a
            picture still shows of each action.
        recipe: its augment and seed, and its input as what the finder looks at.
        out: the folder, made if need be.
        looks: at each video, changed anew, as subset `train`; 0 for one at each as a detector sees it, as subset
            `val`: to measure by.
        watch: told of every look.

    Raises:
        CorpusError: a folder with looks of another finder, recipe or corpus, or a finder of joints without names.
    """
    claim = claim_of(finder, corpus, recipe, looks)
    note = out / "found.json"
    if note.exists() and json.loads(note.read_text("utf-8")) != claim:
        raise CorpusError(f"{out} holds looks of another bundle, recipe or data: take another --out")
    for name in ("sidecars", "records"):
        (out / name).mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(claim) + "\n", encoding="utf-8")
    augment = recipe.augment.model_copy(update=_WHOLE)
    videos: dict[str, Any] = {}
    for place, (item, stem) in enumerate(zip(corpus.items, distinct_names(corpus.items), strict=True)):
        for look in range(max(looks, 1)):
            watch(place * max(looks, 1) + look, len(corpus.items) * max(looks, 1))
            name = f"{stem}-{look}" if looks else stem
            record = out / "records" / f"{name}.json"
            if not record.exists():
                seed = np.random.SeedSequence((recipe.seed, place, look))
                seen = _changed(item, recipe, augment, seed) if looks else _plain(item, recipe)
                _find(finder, item, seen, recipe, out, name)
            videos[name] = json.loads(record.read_text("utf-8"))
    (out / "mmad.json").write_text(json.dumps(videos) + "\n", encoding="utf-8")


class _Seen(NamedTuple):
    """All of a video, as a look shows it.

    Attributes:
        parts: frames (n, height, width, 3) uint8 of the network's size, a part after the other.
        segments: (m, 2) in frames. labels: (m,). subset: that it is for.
    """

    parts: Iterator[Frames]
    segments: Floats
    labels: Integers
    subset: str


def _changed(item: Item, recipe: Recipe, augment: AugmentConfig, seed: np.random.SeedSequence) -> _Seen:
    """Every part is changed alike, since all begin with the same seed."""
    frames = read_frames(item, recipe.input, recipe.data.margin, recipe.data.cache)
    joints = read_joints(item, recipe.input.fps, len(frames))

    def change(part: Frames, config: InputConfig, joints: Joints | None) -> Example:
        rng, longest = np.random.default_rng(seed), max(len(part), config.window_frames)
        return make_example(rng, part, item.segments, item.labels, joints, config, augment, longest)

    # What happens is the same where nothing is seen, and black pixels cost nothing.
    told = change(
        np.zeros((len(frames), 1, 1, 3), np.uint8),
        recipe.input.model_copy(update={"height": 1, "width": 1}),
        joints,
    )
    at_once = _PART if joints is None else len(frames)  # close-ups are of all places that joints come to
    parts = (change(part, recipe.input, joints).frames for part in _cut(frames, at_once))
    return _Seen(parts, told.segments, told.labels, TRAIN)


def _plain(item: Item, recipe: Recipe) -> _Seen:
    """The same as a detector sees it."""
    seen = recipe.input
    frames = read_frames(item, seen, 1.0, recipe.data.cache)
    segments = np.minimum(item.segments * seen.fps, len(frames))
    inside = segments[:, 0] < segments[:, 1]
    parts = (plain_example(part, seen) for part in _cut(frames, _PART))
    return _Seen(parts, segments[inside], item.labels[inside], VAL)


def _cut(frames: Frames, at_once: int) -> Iterator[Frames]:
    for begin in range(0, len(frames), at_once):
        yield frames[begin : begin + at_once]


def _find(finder: Finder, item: Item, seen: _Seen, recipe: Recipe, out: Path, name: str) -> None:
    """One look at a video; its record is written last, and says that it is there."""
    config = recipe.input
    # Frames may be mapped, and not to be written to, which torch does not take.
    found = np.concatenate([finder.find(np.array(part)) for part in seen.parts])
    np.savez(
        out / "sidecars" / f"{name}.npz",
        joints=(found[..., :2] * (config.width, config.height)).astype(np.float32),
        joints_seen=found[..., 2].astype(np.float32),
        joint_names=np.array(_names(item, found.shape[1])),
    )
    actions = [
        [int(label), *(round(float(moment) / config.fps, 4) for moment in segment)]
        for label, segment in zip(seen.labels, seen.segments, strict=True)
    ]
    record = {
        "subset": seen.subset, "duration": round(len(found) / config.fps, 4), "frames": len(found),
        "fps": config.fps, "height": config.height, "width": config.width, "actions": actions,
    }  # fmt: skip
    aside = out / "records" / f".{name}.json"
    aside.write_text(json.dumps(record), encoding="utf-8")
    aside.replace(out / "records" / f"{name}.json")


def _names(item: Item, count: int) -> tuple[str, ...]:
    """Of the joints found: the sidecar's, or those of `mmad synth`, which finders learn from."""
    joints = read_joints(item, 1.0, 1)
    names = JOINT_NAMES if joints is None else joints.names
    if len(names) != count:
        raise CorpusError(
            f"{item.path}: {count} joints are found, and names of {len(names)} are known: take a bundle whose finder "
            "learned from mmad synth, videos with its sidecars, or fine-tune with --looks 0"
        )
    return names


def main() -> None:
    """Look at every training video of some data sets."""
    parser = ArgumentParser(description="Joints as a bundle finds them, as a data set.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="whose finder looks, at the size of its input"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of videos of one person each"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=4, help="at each video, changed anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="demo", help="recipe whose augment is taken")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="key=value, over the recipe's"
    )
    options = parser.parse_args()
    if options.looks < 1:
        parser.error(f"--looks {options.looks}: at least 1")
    finder = Finder(options.bundle)
    recipe = load_recipe(options.config, [*options.overrides, f"seed={options.seed}"])
    recipe = recipe.model_copy(update={"input": finder.bundle.manifest.input})
    corpus = load_corpus(options.data, finder.bundle.manifest.taxonomy, TRAIN, 0.0).with_pictures()

    def watch(done: int, count: int) -> None:
        if done % 50 == 0:
            sys.stderr.write(f"{done} of {count} looks\n")

    keep(finder, corpus, recipe, options.out, options.looks, watch)
    sys.stdout.write(
        f"{options.out}: {len(corpus.items) * options.looks} looks at {len(corpus.items)} videos\n"
    )


if __name__ == "__main__":
    main()
