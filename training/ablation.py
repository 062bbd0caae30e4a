"""Table 4, inputs, rates and windows: variants of one recipe, trained alike, from one pretrained backbone each.

    python -m training.ablation --data FOLDER... --out RUNS [--teacher BUNDLE] [--seeds 3] [--only NAME...]

Every run has a folder; a run that is done is not done again, one that was interrupted goes on. What the variants are
worth, and how far their pretraining came, is printed and written to RUNS/table.md.
"""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.export import save_checkpoint
from model.network import Network
from model.taxonomy import Taxonomy
from training.dataset import load_corpus
from training.recipe import Recipe, load_recipe
from training.run import BACKBONE, CHECKPOINT, HISTORY, Run, make_manifest
from training.tables import standard_labels
from training.train import Progress, train
from training.tuning import set_trainable
from training.validate import Measured, measure, metrics_of

METRICS, TABLE = "metrics.json", "table.md"
_LOSSES = ("dense", "joints", "teacher", "masked")

# The first stage is done: one step of it in which nothing of the backbone moves.
FROM_START = ("stages.0.objective=dense", "stages.0.steps=1", "stages.0.tuning=head")


class Start(NamedTuple):
    """What a pretraining sees, by settings over the recipe's, and whether a teacher helps it."""

    settings: tuple[str, ...] = ()
    taught: bool = False


class Variant(NamedTuple):
    """A name, the pretraining it begins from, and settings over the recipe's."""

    name: str
    start: str
    settings: tuple[str, ...]


_ALL = ("stages.1.tuning=all",)
_DSTA = ("architecture.adapter={kind: dsta}",)
# Whoever sees pictures has a fifth of the frames in a step, which takes as long.
_SEEING = (
    "stages.0.given=pictures", "stages.0.batch=10", "stages.0.frames=48", "stages.0.joints=0.5",
    "stages.1.given=pictures", "stages.1.batch=4", "input.clip_frames=16",
)  # fmt: skip
_TRANSFORMER = "embed_dim: 128, depth: 4, heads: 4, tubelet_size: 4"
_RGB = (*_SEEING, f"architecture.backbone={{{_TRANSFORMER}, inputs: rgb, stem: convolutions}}")
_DIFFERENCES = (
    *_SEEING,
    f"architecture.backbone={{{_TRANSFORMER}, inputs: rgb_differences, stem: convolutions}}",
)
_LINEAR = (*_SEEING, f"architecture.backbone={{{_TRANSFORMER}, inputs: rgb_differences, stem: linear}}")
_SHIFT = (*_SEEING, "architecture.backbone={kind: shift, inputs: rgb_differences, tubelet_size: 4}")
_POSE = ("architecture.backbone={kind: pose, moves: 80.0}",)

# Adapters come after pretraining, as in the paper.
STARTS: dict[str, Start] = {
    "taught": Start(taught=True),
    "untaught": Start(),
    "differences": Start(_DIFFERENCES, taught=True),
    "rgb": Start(_RGB, taught=True),
    "linear": Start(_LINEAR, taught=True),
    "masked": Start((*_LINEAR, "stages.0.objective=masked")),
    "shift": Start(_SHIFT, taught=True),
    "pose": Start(_POSE),
    "pose-7.5": Start((
        "architecture.backbone={kind: pose, moves: 80.0, lags: [1, 2]}", "input.fps=7.5", "input.window_frames=128",
        "input.overlap_frames=64", "stages.0.frames=48",
    )),
    "pose-30": Start((
        "architecture.backbone={kind: pose, moves: 80.0, lags: [2, 8]}", "input.fps=30.0", "input.window_frames=512",
        "input.overlap_frames=256", "stages.0.frames=192",
    )),
    "pose-short": Start((*_POSE, "input.window_frames=128", "input.overlap_frames=64")),
}  # fmt: skip
VARIANTS = (
    Variant("frozen features", "taught", ("stages.1.tuning=head",)),
    Variant("DSTA, kernel 3", "taught", _DSTA),
    Variant("TIA", "taught", ("architecture.adapter={kind: tia}",)),
    Variant("full fine-tuning", "taught", _ALL),
    Variant("DSTA, two down", "taught", ("architecture.adapter={kind: dsta_two_down}",)),
    Variant("DSTA, kernel 1", "taught", ("architecture.adapter={kind: dsta, spatial_kernel: 1}",)),
    Variant("standard adapter", "taught", ("architecture.adapter={kind: standard}",)),
    Variant("no teacher, DSTA", "untaught", _DSTA),
    Variant("RGB and differences, DSTA", "differences", _DSTA),
    Variant("RGB alone, DSTA", "rgb", _DSTA),
    Variant("linear patches, DSTA", "linear", _DSTA),
    Variant("masked autoencoding, DSTA", "masked", _DSTA),
    Variant("temporal shift", "shift", _ALL),
    Variant("pose", "pose", _ALL),
    Variant("pose, 7.5 fps", "pose-7.5", _ALL),
    Variant("pose, 30 fps", "pose-30", _ALL),
    Variant("pose, windows of 8.5 s", "pose-short", _ALL),
)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = ArgumentParser(description="Variants of one recipe, trained alike.")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="ablation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, help="of both stages, instead of the recipe's")
    parser.add_argument("--teacher", type=Path, help="bundle whose features help pretraining")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="key=value, of all variants"
    )
    options = parser.parse_args()
    chosen = [one for one in VARIANTS if not options.only or one.name in options.only]
    # Seeds outside, so that an interrupted run has compared all variants as often.
    for seed in range(options.seeds):
        for variant in chosen:
            _run(options, variant, seed)
            (options.out / TABLE).write_text(tables(options.out, chosen, options.seeds), encoding="utf-8")
    sys.stdout.write((options.out / TABLE).read_text("utf-8"))


def _run(options: Namespace, variant: Variant, seed: int) -> None:
    """One variant with one seed, from the pretraining that all of its kind and all seeds share."""
    out = options.out / f"{_folder(variant)}-{seed}"
    if (out / METRICS).exists():
        return
    begin = STARTS[variant.start]
    shared = [*begin.settings, *options.overrides]
    if options.steps:
        shared += [f"stages.{stage}.steps={steps}" for stage, steps in enumerate(options.steps)]
    start = options.out / f"start-{variant.start}"
    if not (start / BACKBONE).exists():
        taught = [f"teacher={options.teacher}", "stages.0.imitate=1.0"]
        with_teacher = taught if options.teacher and begin.taught else []
        _train(options, load_recipe(options.config, [*shared, *with_teacher, "stages.1.steps=1"]), start)
    settings = [*shared, *FROM_START, *variant.settings, f"seed={seed}", f"backbone={start / BACKBONE}"]
    recipe = load_recipe(options.config, settings)
    network, step_s = _train(options, recipe, out)
    held_out = load_corpus(options.data, standard_labels(), "val", recipe.data.rare)
    given = recipe.stages[-1].given
    if given == "pictures":
        held_out = held_out.with_pictures()
    manifest = make_manifest(recipe, standard_labels(), ", ".join(map(str, options.data)))
    found = measure(network, manifest, held_out, recipe, "cpu", lambda done, count: None, given)
    save_checkpoint(out / "network.safetensors", network, manifest)
    numbers = {**metrics_of(found), **_details(found, manifest.taxonomy), "moving": _moving(network, recipe)}
    numbers |= {} if step_s is None else {"step_s": step_s}
    (out / METRICS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def _folder(variant: Variant) -> str:
    return variant.name.replace(" ", "-").replace(",", "")


def _train(options: Namespace, recipe: Recipe, out: Path) -> tuple[Network, float | None]:
    """What came of it, and processor time a step if none of it was done before."""
    taxonomy = standard_labels()
    corpus = load_corpus(options.data, taxonomy, "train", recipe.data.rare)
    manifest = make_manifest(recipe, taxonomy, ", ".join(map(str, options.data)))
    run = Run(recipe, manifest, corpus, out, corpus.count_joints())

    def watch(at: Progress) -> None:
        if at.step % 50 == 0:
            sys.stderr.write(
                f"{out.name}: stage {at.stage}, {at.step} of {at.steps}, loss {at.losses['loss']:.4f}\n"
            )

    begin, resume = time.process_time(), (out / CHECKPOINT).exists()
    network = train(run, watch, resume=resume)
    step_s = (time.process_time() - begin) / sum(stage.steps for stage in recipe.stages)
    return network, None if resume else step_s


def _details(found: Measured, taxonomy: Taxonomy) -> dict[str, float]:
    """What the average hides: mAP of frames, and each part of the body's AP."""
    parts = found.body.precision.mean(axis=0)
    return {
        "frame_mAP": float(np.nanmean(found.action.frame_precision)),
        **{f"AP {body.name}": float(value) for body, value in zip(taxonomy.bodies, parts, strict=True)},
    }


def _moving(network: Network, recipe: Recipe) -> float:
    """Millions (2**20) of the backbone's weights that the last stage moves."""
    names = set(set_trainable(network, recipe.stages[-1].tuning))
    parameters = network.named_parameters()
    return float(
        sum(p.numel() for name, p in parameters if name in names and name.startswith("backbone.")) / 2**20
    )


def tables(out: Path, variants: Sequence[Variant], seeds: int) -> str:
    """Both, one under the other."""
    return f"{_worth(out, variants, seeds)}\n{_pretraining(out, variants)}"


def _pretraining(out: Path, variants: Sequence[Variant]) -> str:
    """Losses of each pretraining: means over the last quarter of its steps, which see the same examples if alike."""
    lines = [
        f"| pretraining | steps | {' | '.join(_LOSSES)} | median time a step, s |",
        f"|---|---|{'---|' * len(_LOSSES)}---|",
    ]
    for name in dict.fromkeys(variant.start for variant in variants):
        path = out / f"start-{name}" / HISTORY
        if not path.exists():
            continue
        rows = [row for row in map(json.loads, path.read_text("utf-8").splitlines()) if row["stage"] == 0]
        last = rows[-max(len(rows) // 4, 1) :]
        cells = [f"{np.mean([row[loss] for row in last]):.4f}" if loss in last[0] else "" for loss in _LOSSES]
        lines.append(
            f"| {name} | {len(rows)} | {' | '.join(cells)} | {np.median([row['seconds'] for row in rows]):.2f} |"
        )
    return "\n".join(lines) + "\n"


def _worth(out: Path, variants: Sequence[Variant], seeds: int) -> str:
    """Mean and standard deviation over the seeds there are, in percent."""
    lines = [
        "| variant | moves, M | processor time a step, s | frame mAP | action mAP | body mAP | mean of both | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        folders = [out / f"{_folder(variant)}-{seed}" for seed in range(seeds)]
        found = [json.loads((one / METRICS).read_text()) for one in folders if (one / METRICS).exists()]
        if not found:
            continue
        times = [one["step_s"] for one in found if "step_s" in one]
        cells = [f"{found[0]['moving']:.3f}", f"{np.median(times):.2f}" if times else "?"]
        for name in ("frame_mAP", "action_mAP", "body_mAP", "average_mAP"):
            values = 100 * np.array([one[name] for one in found])
            cells.append(f"{values.mean():.2f} ± {values.std():.2f}")
        lines.append(f"| {variant.name} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
