"""`mmad measure` and `mmad control`: evaluate a bundle on annotated videos, and test whether it uses motion."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad import options
from mmad.commands.evaluate import percent, print_evaluation
from mmad.models import Json
from mmad.terminal import exit_on, out, print_status, print_table, progress_bar, write_json

if TYPE_CHECKING:
    from model import engines
    from model.bundle import Bundle
    from model.taxonomy import Action, Body, Taxonomy
    from training.evaluation.frozen_frame_test import ClipResult, LevelScores

app = typer.Typer()

_FEW = 5  # best and worst classes


@app.command()
def measure(
    data: Annotated[Path, typer.Option("--data", help="Data set folder with mmad.json and videos/.")],
    bundle: options.BundleDir = None,
    subset: Annotated[str, typer.Option(help="Subset to evaluate on.")] = "test",
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for report.json, tables and figures.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of videos, evenly spread.")] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Training annotations with class frequencies for the baselines.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained/--no-untrained", help="Also evaluate the network with random weights.")
    ] = True,
    record: Annotated[bool, typer.Option("--record", help="Write the numbers into the bundle's bundle.json.")] = False,
    engine: options.EngineOption = None,
    device: options.DeviceOption = None,
    as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Evaluate a bundle on annotated videos as the service runs it: mAP, errors and calibration, with baselines."""
    from model.errors import DetectorError
    from training.dataset import DatasetError
    from training.evaluation import errors, metrics, report
    from training.evaluation import measure as measurement
    from training.files import AnnotationError

    with exit_on(measurement.MeasureError, DatasetError, AnnotationError, DetectorError, OSError):
        if out_dir is not None:
            out_dir.mkdir(parents=True, exist_ok=True)  # fails before the work, not after
        loaded, runner = _load(bundle, engine, device)
        taxonomy = loaded.manifest.taxonomy
        items = measurement.load_samples(data, taxonomy, subset, limit)
        known = measurement.read_prior(prior, taxonomy) if prior else None
        with progress_bar("measure") as show:

            def show_runs(done: int, count: int) -> None:
                show(f"{done} of {count} runs", done / count)

            found = measurement.measure(loaded, runner, items, known, show_runs, untrained)
        analysis = errors.analyze(found.truth, found.predictions, len(taxonomy.actions))
        document: Json = {
            "data": data.resolve().name,
            "subset": subset,
            "evaluation": metrics.to_document(found.action, found.body, len(items), taxonomy),
            **measurement.to_document(found, loaded, runner, report.describe_device(runner.device)),
            "errors": errors.to_document(analysis),
        }
        if out_dir is not None:
            report.write_tables(found.truth, found.action, found.body, taxonomy, out_dir / report.TABLES)
            report.draw_figures(found.truth, found.predictions, found.action, analysis, taxonomy, out_dir)
            write_json(document, out_dir / "report.json")
        if record:
            measurement.record_metrics(loaded, subset, document)
    if as_json:
        write_json(document)
    else:
        print_evaluation(document["evaluation"])
        _print_measurement(document)


@app.command()
def control(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Videos of one action each, like A2_....mp4.")],
    bundle: options.BundleDir = None,
    action: Annotated[
        str | None, typer.Option(help="Code of the action in all clips; by default the start of each file name.")
    ] = None,
    stills: Annotated[int, typer.Option(min=1, help="Number of frozen frames per window.")] = 3,
    engine: options.EngineOption = None,
    device: options.DeviceOption = None,
    as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Rank the true action among all classes, by score and by score minus that of frozen frames of the same clip."""
    from model.errors import DetectorError
    from training.evaluation import frozen_frame_test as frozen

    with exit_on(frozen.FrozenFrameTestError, DetectorError, OSError):
        loaded, runner = _load(bundle, engine, device)
        taxonomy = loaded.manifest.taxonomy
        label = frozen.parse_action(Path(action), taxonomy) if action else None
        with progress_bar("control") as show:
            results = []
            for index, clip in enumerate(clips):
                show(clip.name, index / len(clips))
                results.append(frozen.run_frozen_frame_test(loaded, runner, clip, label, stills))
    document: Json = frozen.to_document(results, taxonomy)
    if as_json:
        write_json(document)
        return
    for one in results:
        if not one.windows:
            print_status(f"{one.clip}: nobody was found in it, so that it ranks as a guess", "yellow")
        _print_clip(one, taxonomy)
    _print_ranks(results, document, taxonomy)


def _load(
    bundle: Path | None, engine: options.Engine | None, device: options.Device | None
) -> "tuple[Bundle, engines.Engine]":
    """Load a bundle and its engine, with the options of `mmad detect`."""
    from model.engines import load_engine

    settings = options.load_settings(options.DETECT_SETTINGS, bundle=bundle, engine=engine, device=device)
    loaded = options.load_bundle(settings.bundle)
    return loaded, load_engine(loaded, settings.engine, settings.device, settings.data_dir / "cache")


def _print_measurement(document: Json) -> None:
    evaluation = document["evaluation"]
    own = (evaluation["action"]["average"], evaluation["body"]["average"], evaluation["average"])
    rows = [(document["bundle"]["name"], *map(percent, own), "")]
    for name, one in document["baselines"].items():
        times = (f"{value:.1f}" if value else "-" for value in one["ratio"].values())
        rows.append((name, *(percent(one[level]) for level in ("action", "body", "average")), " / ".join(times)))
    print_table(("mean mAP in percent", "action", "body", "both", "bundle / this"), rows, title="Beside baselines")
    out.print(f"frequencies of the baselines: {document['prior']}")
    per_class = evaluation["action"]["per_class"]
    order = sorted(per_class, key=lambda code: -per_class[code]["average"])
    scores = [f"{code} {100 * per_class[code]['average']:.1f}" for code in order]
    if len(scores) > 2 * _FEW:  # the report has all
        scores = [*scores[:_FEW], "...", *scores[-_FEW:]]
    out.print(f"average precision of actions: {', '.join(scores)}")
    kinds = [(kind, f"{100 * share:.1f}") for kind, share in document["errors"]["false_positives"][0].items()]
    print_table(("of as many best predictions as ground truth", "percent"), kinds, title="Kinds")
    errors, speed = document["calibration_error"], document["speed"]
    out.print(
        f"expected calibration error: {errors['all']:.4f} of all proposals, {errors['shown']:.4f} of those shown\n"
        f"{speed['frames_per_second']:.0f} frames a second, {speed['times_real_time']:.1f} times real time, "
        f"{speed['engine']} on {speed['device']}"
    )


def _print_clip(result: "ClipResult", taxonomy: "Taxonomy") -> None:
    """Print the best classes of a clip by score and by gain over frozen frames."""
    levels: tuple[tuple[str, LevelScores, Sequence[Action | Body]], ...] = (
        ("action", result.action, taxonomy.actions),
        ("body part", result.body, taxonomy.bodies),
    )
    rows: list[Sequence[str]] = []
    for kind, level, classes in levels:
        raw = sorted(classes, key=lambda one: -level.clip[one.id])[:_FEW]
        moving = sorted(classes, key=lambda one: -level.gain[one.id])[:_FEW]
        for place, (first, second) in enumerate(zip(raw, moving, strict=True), 1):
            by_score = f"{first.code} {first.name} {level.clip[first.id]:.3f}"
            by_gain = f"{second.code} {second.name} {level.gain[second.id]:+.3f}"
            rows.append((f"{kind} {place}", by_score, by_gain))
        rows.append(())
    print_table(("", "by highest score", "by what movement adds"), rows, title=result.clip)


def _print_ranks(results: "list[ClipResult]", document: Json, taxonomy: "Taxonomy") -> None:
    """Print the ranks of the true classes, with their means and chance level."""
    rows: list[Sequence[str]] = [
        (one.clip, taxonomy.actions[one.label].code, *(f"{rank:g}" for rank in (*one.action.ranks, *one.body.ranks)))
        for one in results
    ]
    mean = document["mean_rank"]
    values = [mean[level][way] for level in ("action", "body") for way in ("raw", "moving")]
    guesses = [f"{mean[level]['chance']:g} ± {mean[level]['chance_deviation']:.1f}" for level in ("action", "body")]
    rows += [(), ("mean", "", *(f"{value:.1f}" for value in values))]
    rows += [("of guesses", "", guesses[0], guesses[0], guesses[1], guesses[1])]
    actions, bodies = len(taxonomy.actions), len(taxonomy.bodies)
    print_table(("clip", "is", f"rank of {actions}", "without stills", f"body, of {bodies}", "without stills"), rows)
