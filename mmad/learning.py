"""The command that trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.terminal import bar, failing_on, out, tell

if TYPE_CHECKING:
    from training.train import Progress

app = typer.Typer()


@app.command()
def train(
    data: Annotated[list[Path], typer.Option("--data", help="Data set folder, or FOLDER*WEIGHT; once or more.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    config: Annotated[str, typer.Option(help="Recipe: a file, or the name of a shipped one.")] = "demo",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="How many; under torchrun its own number.")] = 1,
) -> None:  # fmt: skip
    """Train a network: checkpoint, bundle and report in the folder of the run."""
    from model.errors import DetectorError
    from training.corpus import CorpusError, load_corpus
    from training.recipe import RecipeError, load_recipe
    from training.report import conclude
    from training.tables import standard_labels
    from training.train import Run, TrainingError, count_joints, make_manifest
    from training.train import train as train_network
    from training.validate import measure

    with failing_on(RecipeError, CorpusError, TrainingError, DetectorError, OSError):
        recipe = load_recipe(config, overrides or [])
        taxonomy = standard_labels()
        corpora = [load_corpus(data, taxonomy, subset, recipe.data.rare) for subset in ("train", "val")]
        manifest = make_manifest(recipe, taxonomy, ", ".join(str(folder) for folder in data))
        run = Run(recipe, manifest, corpora[0], out_dir, count_joints(corpora[0]))
        tell(f"{len(corpora[0].items)} videos to train on, {len(corpora[1].items)} to measure on")
        with bar("train") as show:

            def watch(at: "Progress") -> None:
                show(
                    f"stage {at.stage} loss {at.losses['loss']:.4f}, {at.rate:.1f} windows a second",
                    at.step / at.steps,
                )

            network = train_network(run, watch, resume=resume, accelerator=device, devices=devices)
        with bar("measure") as show:
            found = measure(
                network, manifest, corpora[1], recipe, "cpu", lambda done, count: show("videos", done / count)
            )
        concluded = conclude(network, manifest, found, out_dir)
    for name, value in (concluded.metrics or {}).items():
        out.print(f"{name}: {value:.4f}", highlight=False)
    out.print(f"{out_dir}/bundle: {concluded.name} {concluded.version}", highlight=False)
