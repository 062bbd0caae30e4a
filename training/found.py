"""Joints as a bundle finds them in a data set's pictures, kept as a data set of their own.

    python -m training.found --bundle BUNDLE --data FOLDER... --out FOLDER [--looks 4] [--seed 0] [--set key=value]...

What reads joints then learns from their true errors, `given: joints, joint_error: 0`, without looking at a picture
again. Every look at a video changes its pictures anew, as the recipe's `augment` says; mirror images are left to the
training. Looks that are there already are not taken again.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.augment import Example, make_example
from training.corpus import Corpus, CorpusError, Item, load_corpus, read_frames, read_joints
from training.joints import Finder
from training.recipe import AugmentConfig, Recipe, load_recipe

# A video stays whole and as it is: cutting and mirroring are done in training, to found joints as to given ones.
_WHOLE = {"flip": 0.0, "truncate": 0.0, "freeze": 0.0, "still": 0.0, "speed": (1.0, 1.0)}
_SUBSET = "train"


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
        finder: what finds joints. corpus: videos with pictures and sidecars; what they show of each action is known
            from these.
        recipe: its augment and seed. Its input must be the finder's.
        out: the folder, made if need be. looks: at each video.
        watch: told of every look.

    Raises:
        CorpusError: a video without a sidecar, or a folder with looks of another finder or recipe.
    """
    augment = recipe.augment.model_copy(update=_WHOLE)
    _claim(
        out, {"weights": finder.bundle.weights_sha256, "seed": recipe.seed, **augment.model_dump(mode="json")}
    )
    for name in ("sidecars", "records"):
        (out / name).mkdir(parents=True, exist_ok=True)
    videos: dict[str, Any] = {}
    for place, item in enumerate(corpus.items):
        for look in range(looks):
            watch(place * looks + look, len(corpus.items) * looks)
            name = f"{item.path.parent.parent.name}-{item.name}-{look}"
            record = out / "records" / f"{name}.json"
            if not record.exists():
                rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, place, look)))
                _look(finder, item, recipe, augment, rng, out, name)
            videos[name] = json.loads(record.read_text("utf-8"))
    (out / "mmad.json").write_text(json.dumps(videos) + "\n", encoding="utf-8")


def _claim(out: Path, made: dict[str, Any]) -> None:
    """Note what looks are made with; they must not be mixed."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / "found.json"
    if note.exists() and json.loads(note.read_text("utf-8")) != made:
        raise CorpusError(f"{out} holds looks of another bundle, seed or augment: take another --out")
    note.write_text(json.dumps(made) + "\n", encoding="utf-8")


def _look(
    finder: Finder,
    item: Item,
    recipe: Recipe,
    augment: AugmentConfig,
    rng: np.random.Generator,
    out: Path,
    name: str,
) -> None:
    """One look at a video; its record is written last, and says that it is there."""
    seen = recipe.input
    frames = read_frames(item, seen, recipe.data.margin, recipe.data.cache)
    joints = read_joints(item, seen.fps, len(frames))
    if joints is None:
        raise CorpusError(f"{item.path} has no sidecar with joints: take videos of mmad synth")
    example = make_example(
        rng, frames, item.segments, item.labels, joints, seen, augment, max(len(frames), seen.window_frames)
    )
    found = finder.find(example.frames)
    np.savez(
        out / "sidecars" / f"{name}.npz",
        joints=(found[..., :2] * (seen.width, seen.height)).astype(np.float32),
        joints_seen=found[..., 2].astype(np.float32),
        joint_names=np.array(joints.names),
    )
    aside = out / "records" / f".{name}.json"
    aside.write_text(json.dumps(_record(example, recipe)), encoding="utf-8")
    aside.replace(out / "records" / f"{name}.json")


def _record(example: Example, recipe: Recipe) -> dict[str, Any]:
    """As mmad.json has it."""
    seen = recipe.input
    actions = [
        [int(label), *(round(float(moment) / seen.fps, 4) for moment in segment)]
        for label, segment in zip(example.labels, example.segments, strict=True)
    ]
    return {
        "subset": _SUBSET, "duration": round(len(example.frames) / seen.fps, 4), "frames": len(example.frames),
        "fps": seen.fps, "height": seen.height, "width": seen.width, "actions": actions,
    }  # fmt: skip


def main() -> None:
    """Look at every training video of some data sets."""
    parser = ArgumentParser(description="Joints as a bundle finds them, as a data set.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="whose finder looks, at the size of its input"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of mmad synth with pictures"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=4, help="at each video, changed anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="demo", help="recipe whose augment is taken")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="key=value, over the recipe's"
    )
    options = parser.parse_args()
    finder = Finder(options.bundle)
    recipe = load_recipe(options.config, [*options.overrides, f"seed={options.seed}"])
    recipe = recipe.model_copy(update={"input": finder.bundle.manifest.input})
    corpus = load_corpus(options.data, finder.bundle.manifest.taxonomy, _SUBSET, 0.0).with_pictures()

    def watch(done: int, count: int) -> None:
        if done % 50 == 0:
            sys.stderr.write(f"{done} of {count} looks\n")

    keep(finder, corpus, recipe, options.out, options.looks, watch)
    sys.stdout.write(
        f"{options.out}: {len(corpus.items) * options.looks} looks at {len(corpus.items)} videos\n"
    )


if __name__ == "__main__":
    main()
