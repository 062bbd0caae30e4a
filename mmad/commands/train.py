"""`mmad train` trains a network from data sets, `mmad fine-tune` a bundle on the user's own videos."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.options import BundleDir, load_configured_bundle
from mmad.terminal import exit_on, fail, out, print_status, progress_bar

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.network import Network
    from training.dataset import Sample, VideoDataset
    from training.evaluation.validation import ValidationResult
    from training.recipe import Inputs, Recipe
    from training.run import Run
    from training.train import Progress

app = typer.Typer()

RunDir = Annotated[Path, typer.Option("--out", help="Folder of the run.")]
Config = Annotated[str, typer.Option(help="Recipe: a file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value, overrides the recipe.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint of the run.")]
TrainingDevice = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def train(
    out_dir: RunDir,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Data set folder, or FOLDER*WEIGHT; repeatable.")
    ] = None,
    config: Config = "demo",
    overrides: Overrides = None,
    resume: Resume = False,
    device: TrainingDevice = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices; under torchrun its number of processes.")] = 1,
) -> None:  # fmt: skip
    """Train a network; checkpoint, bundle and report are written to the folder of the run."""
    from model.errors import DetectorError
    from training.dataset import DatasetError, load_dataset
    from training.recipe import RecipeError, load_recipe
    from training.run import Run, TrainingError, make_manifest
    from training.tables import standard_labels
    from training.train import is_first_process

    if not data:
        fail("there is nothing to train on: give --data FOLDER, as made by mmad synth or by the data set's tools")
    with exit_on(RecipeError, DatasetError, TrainingError, DetectorError, OSError):
        recipe = load_recipe(config, overrides or [])
        taxonomy = standard_labels()
        source, held_out = (
            load_dataset(data, taxonomy, subset, recipe.data.class_balance_exponent) for subset in ("train", "val")
        )
        held_out = held_out.with_frames()
        description = f"{len(source.samples)} videos of {', '.join(folder.name for folder in data)}"
        manifest = make_manifest(recipe, taxonomy, description)
        run = Run(recipe, manifest, source, out_dir, source.count_keypoints(), held_out=held_out)
        if is_first_process():
            print_status(f"{description} to train on, {len(held_out.samples)} videos to measure on")
        network = _train_network(run, resume, device, devices)
        if is_first_process():  # only the first process writes
            _write_results(network, run, _validate(network, run, held_out), device)


@app.command()
def fine_tune(
    videos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of videos, at any depth.")],
    annotations: Annotated[
        list[Path], typer.Option(help=".eaf, .csv, .tsv or .json file, or folder of such (but .json); repeatable.")
    ],
    out_dir: RunDir,
    bundle: BundleDir = None,
    tier: Annotated[list[str] | None, typer.Option(help="Read only this tier of .eaf files; repeatable.")] = None,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.9, help="Fraction of the videos that is held out.")] = 0.2,
    held_out_list: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with one video to hold out per line.")
    ] = None,
    copies: Annotated[
        int, typer.Option("--looks", min=0, help="Number of augmented copies of each video whose keypoints are "
                          "computed before the training; 0: compute them in every step.")
    ] = 4,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; by default the old name with -tuned.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of steps.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many validations without improvement; 0: never.")
    ] = None,
    config: Config = "fine-tune",
    overrides: Overrides = None,
    resume: Resume = False,
    device: TrainingDevice = "auto",
) -> None:  # fmt: skip
    """Fine-tune a bundle on your own annotated videos; writes a bundle and a report to the folder of the run."""
    from model.errors import DetectorError
    from training.annotated import read_annotated
    from training.dataset import DatasetError
    from training.evaluation.validation import choose_calibration
    from training.files import AnnotationError
    from training.recipe import RecipeError, load_recipe
    from training.run import TrainingError
    from training.split import SplitError, split, split_by_list
    from training.train import find_checkpoint

    start = load_configured_bundle(bundle)
    given: dict[str, str | int | None] = {
        "start": str(start.folder), "data.cache": str(out_dir / "frames"), "name": name,
        "stages.-1.steps": steps, "stages.-1.patience": patience,
    }  # fmt: skip
    settings = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    with exit_on(RecipeError, AnnotationError, SplitError, DatasetError, TrainingError, DetectorError, OSError):
        recipe = load_recipe(config, [*settings, *(overrides or [])])
        if resume:
            find_checkpoint(out_dir)  # fails before the videos are read, not after
        items = read_annotated(videos, annotations, start.manifest.taxonomy, tier or (), notify=print_status)
        parts = split_by_list(items, held_out_list) if held_out_list else split(items, held_out, recipe.seed)
        run, held_out_videos = _prepare_fine_tuning(parts, start, recipe, out_dir, copies)
        network = _train_network(run, resume, device)
        found = choose_calibration(_validate(network, run, held_out_videos), start.manifest)
        print_status(found.explanation)
        _write_results(network, run, found.measured, device)


def _prepare_fine_tuning(
    parts: "Sequence[Sequence[Sample]]", start: "Bundle", recipe: "Recipe", out_dir: Path, copies: int
) -> "tuple[Run, VideoDataset]":
    """Crop the videos to the person and compute their keypoints; returns the run and its held-out videos."""
    from training import keypoint_cache as cache
    from training.annotated import make_dataset
    from training.dataset import load_dataset
    from training.framed import crop_to_person
    from training.keypoints import Finder
    from training.run import Run, make_manifest

    counts = [f"{len(part)} videos with {sum(len(item.labels) for item in part)} actions" for part in parts]
    print_status(f"{counts[0]} to train on, {counts[1]} held out: {', '.join(item.name for item in parts[1])}")
    frames, taxonomy, exponent = out_dir / "frames", start.manifest.taxonomy, recipe.data.class_balance_exponent
    datasets = []
    for part in parts:
        with progress_bar("frames") as show:
            framed = crop_to_person(part, start, recipe, frames, partial(_show_videos, show))
        datasets.append(make_dataset(framed, len(taxonomy.actions), exponent))
    description = f"{counts[0]}, {counts[1]} held out"
    if copies and cache.has_fixed_keypoints(recipe):
        finder = Finder(start.folder)
        for index, (subset, count) in enumerate(((cache.TRAIN, copies), (cache.VAL, 0))):
            fingerprint = cache.compute_fingerprint(finder, datasets[index], recipe, count)
            folder = frames / f"keypoints-{fingerprint[:12]}"
            with progress_bar("keypoints") as show:
                cache.write_keypoints(finder, datasets[index], recipe, folder, count, partial(_show_videos, show))
            datasets[index] = load_dataset([folder], taxonomy, subset, exponent)
        recipe = cache.to_keypoint_recipe(recipe)
        description += f", keypoints found before in {copies} changed copies of each"
    train, held_out = datasets
    manifest = make_manifest(recipe, taxonomy, description)
    return Run(recipe, manifest, train, out_dir, train.count_keypoints(), held_out=held_out), held_out


def _train_network(run: "Run", resume: bool, device: str, devices: int = 1) -> "Network":
    """Train with a progress bar, and print which step early stopping selected."""
    from training.train import train as train_network

    last: list[Progress] = []
    with progress_bar("train") as show:

        def show_step(at: "Progress") -> None:
            last[:] = [at]
            best = "" if at.best is None else f", held out {at.best.loss:.4f} at step {at.best.step}"
            show(
                f"stage {at.stage} loss {at.losses['loss']:.4f}{best}, {at.rate:.1f} windows a second",
                at.step / at.steps,
            )

        network = train_network(run, show_step, resume=resume, accelerator=device, devices=devices)
    if last and (best := last[0].best) is not None:
        print_status(f"stopped at step {last[0].step} of {last[0].steps}; kept are the weights of step {best.step}, "
                     f"which had the lowest loss on the held-out videos, {best.loss:.4f}")  # fmt: skip
    return network


def _validate(network: "Network", run: "Run", dataset: "VideoDataset") -> "ValidationResult":
    """Validate on whole videos, with uncalibrated scores."""
    from training.evaluation.validation import evaluate_network

    plain = run.manifest.model_copy(update={"calibration": None})
    given: Inputs = "pictures" if all(item.has_frames for item in dataset.samples) else "keypoints"
    with progress_bar("measure") as show:
        return evaluate_network(network, plain, dataset, run.recipe, "cpu", partial(_show_videos, show), given)


def _show_videos(show: Callable[[str, float], None], done: int, count: int) -> None:
    show("videos", done / count)


def _write_results(network: "Network", run: "Run", found: "ValidationResult", device: str) -> None:
    """Write bundle and report to the folder of the run, and print the metrics."""
    from training.evaluation.report import write_results

    manifest = write_results(network, run.manifest, found, run.out, device=device, weights=run.recipe.weights)
    for name, value in (manifest.metrics or {}).items():
        out.print(f"{name}: {value:.4f}")
    out.print(f"{run.out}/bundle: {manifest.name} {manifest.version}")
