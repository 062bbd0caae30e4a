"""Joints as a bundle finds them in a data set's pictures, kept as a data set of their own.

    python -m training.found --bundle BUNDLE --data FOLDER... --out FOLDER [--looks 4] [--seed 0] [--set key=value]...

What reads joints then learns from their true errors, `given: joints, joint_error: 0`, without looking at a picture
again: a step costs a tenth. Every look at a video changes its pictures anew, as the recipe's `augment` says; mirror
images are left to the training. Looks that are there already are not taken again. `mmad fine-tune` does the same with
users' videos.
"""

import hashlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.augment import Example, make_example, plain_example
from training.corpus import Corpus, CorpusError, Item, distinct_names, load_corpus, read_frames, read_joints
from training.joints import Finder
from training.people.film import JOINT_NAMES
from training.recipe import AugmentConfig, Recipe, load_recipe

# A video stays whole and as it is: cutting and mirroring are done in training, to found joints as to given ones.
_WHOLE = {"flip": 0.0, "truncate": 0.0, "freeze": 0.0, "still": 0.0, "speed": (1.0, 1.0)}
# What is not to be done again then.
_DONE = {"scale": (1.0, 1.0), "close": 0.0}
TRAIN, VAL = "train", "val"


def finds_only(recipe: Recipe) -> bool:
    """Whether a run leaves what finds joints as it is, so that they need not be found again in every step."""
    return recipe.architecture.finds_joints and all(
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
    made = [
        finder.bundle.weights_sha256,
        corpus.digest(),
        recipe.seed,
        augment,
        recipe.input.model_dump(mode="json"),
    ]
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
        recipe: its augment and seed. Its input must be the finder's.
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
                rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, place, look)))
                seen = _changed(item, recipe, augment, rng) if looks else _plain(item, recipe)
                _find(finder, item, seen, out, name, TRAIN if looks else VAL)
            videos[name] = json.loads(record.read_text("utf-8"))
    (out / "mmad.json").write_text(json.dumps(videos) + "\n", encoding="utf-8")


def _changed(item: Item, recipe: Recipe, augment: AugmentConfig, rng: np.random.Generator) -> Example:
    """All of a video."""
    seen = recipe.input
    frames = read_frames(item, seen, recipe.data.margin, recipe.data.cache)
    joints = read_joints(item, seen.fps, len(frames))
    longest = max(len(frames), seen.window_frames)
    return make_example(rng, frames, item.segments, item.labels, joints, seen, augment, longest)


def _plain(item: Item, recipe: Recipe) -> Example:
    """The same as a detector sees it."""
    seen = recipe.input
    shown = plain_example(read_frames(item, seen, 1.0, recipe.data.cache), seen)
    frames = np.array(shown)  # may be mapped, which torch does not take
    segments = np.minimum(item.segments * seen.fps, len(frames))
    inside = segments[:, 0] < segments[:, 1]
    return Example(frames, segments[inside], item.labels[inside], None)


def _find(finder: Finder, item: Item, seen: Example, out: Path, name: str, subset: str) -> None:
    """One look at a video; its record is written last, and says that it is there."""
    config = finder.bundle.manifest.input
    found = finder.find(seen.frames)
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
        "subset": subset, "duration": round(len(seen.frames) / config.fps, 4), "frames": len(seen.frames),
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
            "learned from mmad synth, or videos with its sidecars"
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
