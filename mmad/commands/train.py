"""The commands that train: from recipes and data sets, and from a bundle and one's own videos."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.options import BundleDir, load_bundle
from mmad.terminal import bar, fail, failing_on, out, tell

if TYPE_CHECKING:
    from model.bundle import Bundle, Manifest
    from model.network import Network
    from model.taxonomy import Taxonomy
    from training.dataset import Corpus, Item, Source
    from training.joints import Finder
    from training.recipe import Given, Recipe
    from training.run import Run
    from training.train import Progress
    from training.validate import Measured

app = typer.Typer()


@app.command()
def train(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Data set folder, or FOLDER*WEIGHT; once or more.")
    ] = None,
    config: Annotated[str, typer.Option(help="Recipe: a file, or the name of a shipped one.")] = "demo",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="How many; under torchrun its own number.")] = 1,
) -> None:  # fmt: skip
    """Train a network: checkpoint, bundle and report in the folder of the run."""
    from model.errors import DetectorError
    from training.dataset import CorpusError
    from training.recipe import RecipeError, load_recipe
    from training.report import conclude
    from training.run import Run, TrainingError, make_manifest
    from training.tables import standard_labels
    from training.train import is_first_process

    with failing_on(RecipeError, CorpusError, TrainingError, DetectorError, OSError):
        recipe = load_recipe(config, overrides or [])
        taxonomy = standard_labels()
        source, held_out, told = _sources(recipe, taxonomy, data or [], out_dir)
        manifest = make_manifest(recipe, taxonomy, told)
        run = Run(recipe, manifest, source, out_dir, source.count_joints(), held_out=held_out)
        if is_first_process():
            tell(f"{told} to train on, {len(held_out.items)} videos to measure on")
        network = _trained(run, resume, device, devices)
        if not is_first_process():  # of several that trained one writes
            return
        found = _measured(network, run, held_out)
        concluded = conclude(network, manifest, found, out_dir, device=device, weights=recipe.weights)
    _print(concluded, out_dir)


@app.command()
def fine_tune(
    videos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of videos, at any depth.")],
    annotations: Annotated[
        list[Path], typer.Option(help=".eaf, .csv, .tsv or .json file, or folder of such (but .json); once or more.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    bundle: BundleDir = None,
    tier: Annotated[list[str] | None, typer.Option(help="Of .eaf files: only this tier; once or more.")] = None,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the videos that is held out.")] = 0.2,
    held_out_list: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File that names a video to hold out a line.")
    ] = None,
    looks: Annotated[
        int, typer.Option(min=0, help="Changed copies of each video in which joints are found once, before; "
                          "0: in every step.")
    ] = 4,
    name: Annotated[str | None, typer.Option(help="Of the bundle; by default the first one's with -tuned.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many measurements without a better one; 0: never.")
    ] = None,
    config: Annotated[str, typer.Option(help="Recipe: a file, or the name of a shipped one.")] = "fine-tune",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:  # fmt: skip
    """Go on training a bundle on one's own annotated videos; a bundle and a report in the folder of the run."""
    from model.errors import DetectorError
    from training.annotated import read_annotated
    from training.dataset import CorpusError
    from training.joints import Finder
    from training.keypoint_cache import as_read, finds_only
    from training.marks import AnnotationError
    from training.recipe import RecipeError, load_recipe
    from training.report import conclude
    from training.run import Run, TrainingError, make_manifest
    from training.split import SplitError, divide, split
    from training.start import settle_scores
    from training.train import checkpoint_of

    start = load_bundle(bundle)
    given: dict[str, str | int | None] = {
        "start": str(start.folder), "data.cache": str(out_dir / "frames"), "name": name,
        "stages.-1.steps": steps, "stages.-1.patience": patience,
    }  # fmt: skip
    settings = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    with failing_on(
        RecipeError, AnnotationError, SplitError, CorpusError, TrainingError, DetectorError, OSError
    ):
        recipe = load_recipe(config, [*settings, *(overrides or [])])
        if resume:
            checkpoint_of(out_dir)  # better told now than after all videos are looked at
        taxonomy = start.manifest.taxonomy
        items = read_annotated(videos, annotations, taxonomy, tier or (), notify=tell)
        parts = divide(items, held_out_list) if held_out_list else split(items, held_out, recipe.seed)
        counts = [
            f"{len(part)} videos with {sum(len(item.labels) for item in part)} actions" for part in parts
        ]
        tell(f"{counts[0]} to train on, {counts[1]} held out: {', '.join(item.name for item in parts[1])}")
        corpora = [_framed(part, start, recipe, out_dir) for part in parts]
        told = f"{counts[0]}, {counts[1]} held out"
        if looks and finds_only(recipe):
            finder = Finder(start.folder)
            pairs = zip(corpora, (looks, 0), strict=True)
            corpora = [_found(corpus, count, finder, recipe, out_dir) for corpus, count in pairs]
            recipe = as_read(recipe)
            told += f", joints found before in {looks} changed copies of each"
        manifest = make_manifest(recipe, taxonomy, told)
        run = Run(recipe, manifest, corpora[0], out_dir, corpora[0].count_joints(), held_out=corpora[1])
        network = _trained(run, resume, device)
        found = settle_scores(_measured(network, run, corpora[1]), start.manifest)
        tell(found.told)
        concluded = conclude(
            network, manifest, found.measured, out_dir, device=device, weights=recipe.weights
        )
    _print(concluded, out_dir)


def _framed(items: "Sequence[Item]", start: "Bundle", recipe: "Recipe", out_dir: Path) -> "Corpus":
    """Videos cut around the person."""
    from training.annotated import make_corpus
    from training.framed import frame_items

    with bar("frames") as show:
        framed = frame_items(items, start, recipe, out_dir / "frames", partial(_show_videos, show))
    return make_corpus(framed, len(start.manifest.taxonomy.actions), recipe.data.rare)


def _found(corpus: "Corpus", looks: int, finder: "Finder", recipe: "Recipe", out_dir: Path) -> "Corpus":
    """Joints that are found in them; looks as training.keypoint_cache.keep has it."""
    from training.dataset import load_corpus
    from training.keypoint_cache import TRAIN, VAL, claim_of, keep

    folder = out_dir / "frames" / f"joints-{claim_of(finder, corpus, recipe, looks)[:12]}"
    with bar("joints") as show:
        keep(finder, corpus, recipe, folder, looks, partial(_show_videos, show))
    return load_corpus([folder], finder.bundle.manifest.taxonomy, TRAIN if looks else VAL, recipe.data.rare)


def _sources(
    recipe: "Recipe", taxonomy: "Taxonomy", data: list[Path], out_dir: Path
) -> "tuple[Source, Corpus, str]":
    """Videos to train on, videos to measure on, and what the first are."""
    from training.dataset import load_corpus

    if recipe.render is None and not data:
        fail(
            "there is nothing to train on: give --data FOLDER, or render films with --set render='{height: 128, ...}'"
        )
    if recipe.render is None:
        train, val = (load_corpus(data, taxonomy, subset, recipe.data.rare) for subset in ("train", "val"))
        return (
            train,
            val.with_pictures(),
            f"{len(train.items)} videos of {', '.join(folder.name for folder in data)}",
        )
    from training.rendered import Rendered  # needs what renders

    rendered = Rendered(recipe.render, out_dir / "films", taxonomy)
    told = f"synthetic people rendered meanwhile (seed {recipe.render.seed})"
    if data:
        return rendered, load_corpus(data, taxonomy, "val", recipe.data.rare).with_pictures(), told
    with bar("render") as show:
        return rendered, rendered.held_out(partial(_show_videos, show)), told


def _trained(run: "Run", resume: bool, device: str, devices: int = 1) -> "Network":
    """Train with a progress bar, and tell what early stopping kept."""
    from training.train import train as train_network

    last: list[Progress] = []
    with bar("train") as show:

        def watch(at: "Progress") -> None:
            last[:] = [at]
            best = "" if at.best is None else f", held out {at.best.loss:.4f} at step {at.best.step}"
            show(
                f"stage {at.stage} loss {at.losses['loss']:.4f}{best}, {at.rate:.1f} windows a second",
                at.step / at.steps,
            )

        network = train_network(run, watch, resume=resume, accelerator=device, devices=devices)
    if last and (best := last[0].best) is not None:
        tell(f"stopped at step {last[0].step} of {last[0].steps}; kept are the weights of step {best.step}, "
             f"which had the lowest loss on the held-out videos, {best.loss:.4f}")  # fmt: skip
    return network


def _measured(network: "Network", run: "Run", corpus: "Corpus") -> "Measured":
    """On whole videos; as nothing is calibrated yet, scores are the network's own."""
    from training.validate import measure

    plain = run.manifest.model_copy(update={"calibration": None})
    given: Given = "pictures" if all(item.pictured for item in corpus.items) else "joints"
    with bar("measure") as show:
        return measure(network, plain, corpus, run.recipe, "cpu", partial(_show_videos, show), given)


def _show_videos(show: Callable[[str, float], None], done: int, count: int) -> None:
    show("videos", done / count)


def _print(concluded: "Manifest", out_dir: Path) -> None:
    for name, value in (concluded.metrics or {}).items():
        out.print(f"{name}: {value:.4f}", highlight=False)
    out.print(f"{out_dir}/bundle: {concluded.name} {concluded.version}", highlight=False)
