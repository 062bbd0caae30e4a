"""Table 4 and the inputs, on any data: variants of one recipe, trained alike, from one pretrained backbone each.

    python -m training.ablation --data FOLDER... --out RUNS [--teacher BUNDLE] [--seeds 3] [--steps N] [--only NAME...]

Every run has a folder; a run that is done is not done again, one that was interrupted goes on. The table is printed and
written to RUNS/table.md.
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
from training.corpus import load_corpus
from training.recipe import Recipe, load_recipe
from training.run import BACKBONE, CHECKPOINT, Run, make_manifest
from training.tables import standard_labels
from training.train import Progress, train
from training.tuning import set_trainable
from training.validate import Measured, measure, metrics_of

METRICS = "metrics.json"


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


_SHIFT = "architecture.backbone={kind: shift, inputs: rgb_differences, tubelet_size: 4}"
_SLOW = (  # as much time in half as many frames
    "input.fps=7.5", "input.window_frames=128", "input.overlap_frames=64", "architecture.backbone.tubelet_size=2",
)  # fmt: skip
_ALL = ("stages.1.tuning=all",)
_DSTA = ("architecture.adapter={kind: dsta}",)

# Adapters come after pretraining, as in the paper.
STARTS: dict[str, Start] = {
    "taught": Start(taught=True),
    "dense": Start(),
    "rgb": Start(("architecture.backbone.inputs=rgb",), taught=True),
    "linear": Start(("architecture.backbone.stem=linear",), taught=True),
    "masked": Start(("architecture.backbone.stem=linear", "stages.0.objective=masked")),
    "shift": Start((_SHIFT,)),
    "shift-80": Start((_SHIFT, "input.height=80", "input.width=80")),
    "shift-128": Start((_SHIFT, "input.height=128", "input.width=128")),
    "shift-tubelet-2": Start((_SHIFT, "architecture.backbone.tubelet_size=2")),
    "shift-7.5": Start((_SHIFT, *_SLOW)),
    "shift-short": Start((_SHIFT, "input.window_frames=128", "input.overlap_frames=64")),
}
VARIANTS = (
    Variant("frozen features", "taught", ("stages.1.tuning=head",)),
    Variant("DSTA, kernel 3", "taught", _DSTA),
    Variant("TIA", "taught", ("architecture.adapter={kind: tia}",)),
    Variant("full fine-tuning", "taught", _ALL),
    Variant("DSTA, two down", "taught", ("architecture.adapter={kind: dsta_two_down}",)),
    Variant("DSTA, kernel 1", "taught", ("architecture.adapter={kind: dsta, spatial_kernel: 1}",)),
    Variant("standard adapter", "taught", ("architecture.adapter={kind: standard}",)),
    Variant("no teacher, DSTA", "dense", _DSTA),
    Variant("RGB alone, DSTA", "rgb", _DSTA),
    Variant("linear patches, DSTA", "linear", _DSTA),
    Variant("masked autoencoding, DSTA", "masked", _DSTA),
    Variant("temporal shift", "shift", _ALL),
    Variant("temporal shift, 80 pixels", "shift-80", _ALL),
    Variant("temporal shift, 128 pixels", "shift-128", _ALL),
    Variant("temporal shift, tubelets of 2", "shift-tubelet-2", _ALL),
    Variant("temporal shift, 7.5 fps", "shift-7.5", _ALL),
    Variant("temporal shift, windows of 8.5 s", "shift-short", _ALL),
)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = ArgumentParser(description="Variants of one recipe, trained alike.")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="ablation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each stage, instead of the recipe's")
    parser.add_argument("--teacher", type=Path, help="bundle whose features help pretraining")
    parser.add_argument("--only", nargs="*", help="names of variants")
    options = parser.parse_args()
    chosen = [one for one in VARIANTS if not options.only or one.name in options.only]
    # Seeds outside, so that an interrupted run has compared all variants as often.
    for seed in range(options.seeds):
        for variant in chosen:
            _run(options, variant, seed)
            (options.out / "table.md").write_text(table(options.out, chosen, options.seeds), encoding="utf-8")
    sys.stdout.write(table(options.out, chosen, options.seeds))


def _run(options: Namespace, variant: Variant, seed: int) -> None:
    """One variant with one seed, from its pretraining, which all of its kind share."""
    begin = STARTS[variant.start]
    shared = [f"seed={seed}", *begin.settings]
    if options.steps:
        shared += [f"stages.0.steps={options.steps}", f"stages.1.steps={options.steps}"]
    start = options.out / f"start-{variant.start}-{seed}"
    if not (start / BACKBONE).exists():
        taught = [f"teacher={options.teacher}", "stages.0.imitate=1.0"]
        with_teacher = taught if options.teacher and begin.taught else []
        _train(options, load_recipe(options.config, [*shared, *with_teacher, "stages.1.steps=1"]), start)
    out = options.out / f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}"
    if (out / METRICS).exists():
        return
    settings = [*shared, *FROM_START, *variant.settings, f"backbone={start / BACKBONE}"]
    _train(options, load_recipe(options.config, settings), out)


def _train(options: Namespace, recipe: Recipe, out: Path) -> None:
    taxonomy = standard_labels()
    corpus, held_out = (
        load_corpus(options.data, taxonomy, subset, recipe.data.rare) for subset in ("train", "val")
    )
    manifest = make_manifest(recipe, taxonomy, ", ".join(map(str, options.data)))
    held_out = held_out.with_pictures()
    run = Run(recipe, manifest, corpus, out, corpus.count_joints())

    def watch(at: Progress) -> None:
        if at.step % 50 == 0:
            sys.stderr.write(
                f"{out.name}: stage {at.stage}, {at.step} of {at.steps}, loss {at.losses['loss']:.4f}\n"
            )

    begin, resume = time.process_time(), (out / CHECKPOINT).exists()
    network = train(run, watch, resume=resume)
    step_s = (time.process_time() - begin) / sum(stage.steps for stage in recipe.stages)
    found = measure(network, manifest, held_out, recipe, "cpu", lambda done, count: None)
    save_checkpoint(out / "network.safetensors", network, manifest)
    numbers = {**metrics_of(found), **_details(found, taxonomy), "moving": _moving(network, recipe)}
    numbers |= {} if resume else {"step_s": step_s}
    (out / METRICS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")


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


def table(out: Path, variants: Sequence[Variant], seeds: int) -> str:
    """Mean and standard deviation over the seeds there are, in percent."""
    lines = [
        "| variant | moves, M | processor time a step, s | frame mAP | action mAP | body mAP | mean of both | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        folders = [out / f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}" for seed in range(seeds)]
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
