"""Comparison of adapters as in the paper's Table 4: variants of one recipe, all from one pretrained backbone.

    python -m training.ablation --data FOLDER... --out RUNS [--teacher BUNDLE] [--seeds 3] [--only NAME...]

Each run has its own folder in RUNS. Runs that are finished are skipped and interrupted runs are resumed. The table of
results is printed and written to RUNS/table.md.
"""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.export import save_checkpoint
from model.network import Network
from training.dataset import load_dataset
from training.evaluation.validation import collect_metrics, evaluate_network
from training.recipe import Recipe, load_recipe
from training.run import BACKBONE, CHECKPOINT, Run, make_manifest
from training.tables import standard_labels
from training.train import Progress, set_trainable, train

METRICS, TABLE, PRETRAINED = "metrics.json", "table.md", "pretrained"

# Pretraining replaces the first stage: reduce it to one step that does not change the backbone.
SKIP_PRETRAINING = ("stages.0.objective=dense", "stages.0.steps=1", "stages.0.tuning=head")


# Rows of the table, and their override of the recipe.
VARIANTS = {
    "frozen features": "stages.1.tuning=head",
    "standard adapter": "architecture.adapter={kind: standard}",
    "TIA": "architecture.adapter={kind: tia}",
    "DSTA, kernel 3": "architecture.adapter={kind: dsta}",
    "DSTA, kernel 1": "architecture.adapter={kind: dsta, spatial_kernel: 1}",
    "DSTA, two down": "architecture.adapter={kind: dsta_two_down}",
    "full fine-tuning": "stages.1.tuning=all",
}


def main() -> None:
    """Train the missing runs, then print the table."""
    parser = ArgumentParser(description="Adapters compared as in the paper's Table 4.")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="ablation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", type=Path, help="bundle whose features are distilled during pretraining")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value, for all variants")
    options = parser.parse_args()
    chosen = [variant for variant in VARIANTS if not options.only or variant in options.only]
    # Seeds in the outer loop, so that an interrupted comparison has run every variant equally often.
    for seed in range(options.seeds):
        for variant in chosen:
            _run(options, variant, seed)
            (options.out / TABLE).write_text(make_table(options.out, chosen, options.seeds), encoding="utf-8")
    sys.stdout.write((options.out / TABLE).read_text("utf-8"))


def _get_folder(out: Path, variant: str, seed: int) -> Path:
    return out / f"{variant.replace(' ', '-').replace(',', '')}-{seed}"


def _run(options: Namespace, variant: str, seed: int) -> None:
    """Train and measure one variant with one seed; all of them start from one pretrained backbone."""
    out = _get_folder(options.out, variant, seed)
    if (out / METRICS).exists():
        return
    pretrained = options.out / PRETRAINED
    if not (pretrained / BACKBONE).exists():
        distillation = [f"teacher={options.teacher}", "stages.0.distillation=1.0"] if options.teacher else []
        recipe = load_recipe(options.config, [*options.overrides, *distillation, "stages.1.steps=1"])
        _train(options, recipe, pretrained)
    start = (f"seed={seed}", f"backbone={pretrained / BACKBONE}")
    recipe = load_recipe(options.config, [*options.overrides, *SKIP_PRETRAINING, VARIANTS[variant], *start])
    run, network, step_s = _train(options, recipe, out)
    held_out = load_dataset(options.data, standard_labels(), "val", recipe.data.class_balance_exponent)
    given = recipe.stages[-1].given
    if given == "pictures":
        held_out = held_out.with_frames()
    result = evaluate_network(network, run.manifest, held_out, recipe, "cpu", lambda done, count: None, given)
    save_checkpoint(out / "network.safetensors", network, run.manifest)
    metrics = collect_metrics(result) | {"frame_mAP": float(np.nanmean(result.action.frame_precision))}
    names = set(set_trainable(network, recipe.stages[-1].tuning))
    parameters = network.backbone.named_parameters(prefix="backbone")
    trained = sum(parameter.numel() for name, parameter in parameters if name in names)
    metrics["trained_parameters_m"] = trained / 2**20
    if step_s is not None:
        metrics["step_s"] = step_s
    (out / METRICS).write_text(json.dumps(metrics) + "\n", encoding="utf-8")


def _train(options: Namespace, recipe: Recipe, out: Path) -> tuple[Run, Network, float | None]:
    """Train a run; return it, the network, and the CPU seconds per step (None if the run was resumed)."""
    dataset = load_dataset(options.data, standard_labels(), "train", recipe.data.class_balance_exponent)
    manifest = make_manifest(recipe, standard_labels(), ", ".join(map(str, options.data)))
    run = Run(recipe, manifest, dataset, out, dataset.count_keypoints())

    def on_progress(at: Progress) -> None:
        if at.step % 50 == 0:
            sys.stderr.write(f"{out.name}: stage {at.stage}, {at.step} of {at.steps}, loss {at.losses['loss']:.4f}\n")

    begin, resume = time.process_time(), (out / CHECKPOINT).exists()
    network = train(run, on_progress, resume=resume)
    step_s = (time.process_time() - begin) / sum(stage.steps for stage in recipe.stages)
    return run, network, None if resume else step_s


def make_table(out: Path, variants: Sequence[str], seeds: int) -> str:
    """Return a Markdown table of the finished runs: mean and standard deviation over seeds, in percent."""
    lines = [
        "| variant | trained, M | processor time a step, s | frame mAP | action mAP | body mAP | average | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        paths = [_get_folder(out, variant, seed) / METRICS for seed in range(seeds)]
        runs = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
        if not runs:
            continue
        times = [run["step_s"] for run in runs if "step_s" in run]
        cells = [f"{runs[0]['trained_parameters_m']:.3f}", f"{np.median(times):.2f}" if times else "?"]
        for name in ("frame_mAP", "action_mAP", "body_mAP", "average_mAP"):
            values = 100 * np.array([run[name] for run in runs])
            cells.append(f"{values.mean():.2f} ± {values.std():.2f}")
        lines.append(f"| {variant} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
