"""Commands that hold a bundle against videos: what it is worth, and whether it sees movement."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mmad.commands.evaluate import print_evaluation
from mmad.options import DETECTING, AsJson, BundleDir, Device, Engine, load_bundle, settings_with
from mmad.terminal import bar, failing_on, out, print_table, tell, write

if TYPE_CHECKING:
    from model import engines
    from model.bundle import Bundle
    from model.taxonomy import Action, Body, Taxonomy
    from training.frozen_frame_test import Level, Seen

app = typer.Typer()

_FEW = 5  # best and worst classes

EngineOption = Annotated[Engine | None, typer.Option(help="What runs the network.")]
DeviceOption = Annotated[Device | None, typer.Option(help="Where the network runs.")]


@app.command()
def measure(
    data: Annotated[Path, typer.Option("--data", help="Data set folder: mmad.json and videos/.")],
    bundle: BundleDir = None,
    subset: Annotated[str, typer.Option(help="Videos of this subset.")] = "test",
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for report.json, tables and figures.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many videos, evenly spread.")] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Training annotations: how often classes are, for the baselines.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained/--no-untrained", help="Run the network with random weights too.")
    ] = True,
    record: Annotated[bool, typer.Option("--record", help="Write the numbers into the bundle's bundle.json.")] = False,
    engine: EngineOption = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run a bundle over annotated videos as the service would: mAP, errors, calibration, beside baselines."""
    from model.errors import DetectorError
    from training import findings
    from training.analyze import analyze
    from training.analyze import to_document as errors_document
    from training.dataset import CorpusError
    from training.evaluate import to_document
    from training.measure import MeasureError, load_items, read_prior, record_metrics
    from training.measure import measure as measure_bundle
    from training.measure import to_document as measured_document
    from training.tables import TableError

    with failing_on(MeasureError, CorpusError, TableError, DetectorError, OSError):
        if out_dir is not None:
            out_dir.mkdir(parents=True, exist_ok=True)  # better told now than when all the work is done
        loaded, runner = _load(bundle, engine, device)
        taxonomy = loaded.manifest.taxonomy
        items = load_items(data, taxonomy, subset, limit)
        known = read_prior(prior, taxonomy) if prior else None
        with bar("measure") as show:
            found = measure_bundle(
                loaded,
                runner,
                items,
                known,
                lambda done, count: show(f"{done} of {count} runs", done / count),
                untrained,
            )
        evaluation = to_document(found.action, found.body, len(items), taxonomy)
        analysis = analyze(found.truth, found.predictions, len(taxonomy.actions))
        where = {"data": data.resolve().name, "subset": subset}
        rest = measured_document(found, loaded, runner, findings.describe_device(runner.device))
        document: dict[str, Any] = where | {
            "evaluation": evaluation,
            **rest,
            "errors": errors_document(analysis),
        }
        if out_dir is not None:
            findings.write_tables(found.truth, found.action, found.body, taxonomy, out_dir / findings.TABLES)
            findings.draw(found.truth, found.predictions, found.action, analysis, taxonomy, out_dir)
            write(json.dumps(document, indent=1), out_dir / "report.json")
        if record:
            record_metrics(loaded, subset, document)
    if as_json:
        write(json.dumps(document, indent=1), None)
    else:
        print_evaluation(evaluation)
        _print_measurement(document)


@app.command()
def control(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Videos of one action each, A2_....mp4.")],
    bundle: BundleDir = None,
    action: Annotated[
        str | None, typer.Option(help="Code of the action in all clips; by default what their names begin with.")
    ] = None,
    stills: Annotated[int, typer.Option(min=1, help="How many frames of each window are held still in turn.")] = 3,
    engine: EngineOption = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """On clips of one action: its rank among all classes, and without what a still picture of it scores."""
    from model.errors import DetectorError
    from training.frozen_frame_test import ControlError, label_of, to_document
    from training.frozen_frame_test import control as run_control

    with failing_on(ControlError, DetectorError, OSError):
        loaded, runner = _load(bundle, engine, device)
        taxonomy = loaded.manifest.taxonomy
        label = label_of(Path(action), taxonomy) if action else None
        with bar("control") as show:
            seen = []
            for place, clip in enumerate(clips):
                show(clip.name, place / len(clips))
                seen.append(run_control(loaded, runner, clip, label, stills))
    document: dict[str, Any] = to_document(seen, taxonomy)
    if as_json:
        write(json.dumps(document, indent=1), None)
        return
    for one in seen:
        if not one.windows:
            tell(f"{one.clip}: nobody was found in it, so that it ranks as a guess", "yellow")
        _print_seen(one, taxonomy)
    _print_ranks(seen, document, taxonomy)


def _load(
    bundle: Path | None, engine: Engine | None, device: Device | None
) -> "tuple[Bundle, engines.Engine]":
    """A bundle and what runs it, as `mmad detect` takes them."""
    from model.engines import load_engine

    settings = settings_with(
        DETECTING, bundle=bundle, engine=engine and engine.value, device=device and device.value
    )
    loaded = load_bundle(settings.bundle)
    return loaded, load_engine(loaded, settings.engine, settings.device, settings.data_dir / "cache")


def _print_measurement(document: dict[str, Any]) -> None:
    evaluation = document["evaluation"]
    table = Table("mean mAP in percent", "action", "body", "both", "bundle / this", title="Beside baselines")
    own = [evaluation["action"]["average"], evaluation["body"]["average"], evaluation["average"]]
    table.add_row(document["bundle"]["name"], *(f"{100 * value:.2f}" for value in own), "")
    for name, one in document["baselines"].items():
        numbers = (f"{100 * one[level]:.2f}" for level in ("action", "body", "average"))
        times = (f"{value:.1f}" if value else "-" for value in one["ratio"].values())
        table.add_row(name, *numbers, " / ".join(times))
    print_table(table)
    out.print(f"frequencies of the baselines: {document['prior']}", highlight=False)
    _print_classes(evaluation["action"]["per_class"])
    table = Table("of as many best predictions as ground truth", "percent", title="Kinds")
    for kind, share in document["errors"]["false_positives"][0].items():
        table.add_row(kind, f"{100 * share:.1f}")
    print_table(table)
    errors, speed = document["calibration_error"], document["speed"]
    out.print(
        f"expected calibration error: {errors['all']:.4f} of all proposals, {errors['shown']:.4f} of those shown\n"
        f"{speed['frames_per_second']:.0f} frames a second, {speed['times_real_time']:.1f} times real time, "
        f"{speed['engine']} on {speed['device']}",
        highlight=False,
    )


def _print_classes(per_class: dict[str, dict[str, float]]) -> None:
    """The best and the worst actions; all are in the report."""
    order = sorted(per_class, key=lambda code: -per_class[code]["average"])
    words = [f"{code} {100 * per_class[code]['average']:.1f}" for code in order]
    if len(words) > 2 * _FEW:
        words = [*words[:_FEW], "...", *words[-_FEW:]]
    out.print(f"average precision of actions: {', '.join(words)}", highlight=False)


def _print_seen(seen: "Seen", taxonomy: "Taxonomy") -> None:
    """The best classes of a clip, both ways."""
    table = Table("", "by highest score", "by what movement adds", title=seen.clip)
    levels: tuple[tuple[str, Level, Sequence[Action | Body]], ...] = (
        ("action", seen.action, taxonomy.actions),
        ("body part", seen.body, taxonomy.bodies),
    )
    for kind, level, classes in levels:
        raw = sorted(classes, key=lambda one: -level.clip[one.id])
        moving = sorted(classes, key=lambda one: -level.gain[one.id])
        for place in range(min(_FEW, len(classes))):
            table.add_row(
                f"{kind} {place + 1}",
                f"{raw[place].code} {raw[place].name} {level.clip[raw[place].id]:.3f}",
                f"{moving[place].code} {moving[place].name} {level.gain[moving[place].id]:+.3f}",
            )
        table.add_section()
    print_table(table)


def _print_ranks(seen: "list[Seen]", document: dict[str, Any], taxonomy: "Taxonomy") -> None:
    """Ranks of the true classes, and their means beside chance."""
    counts = (len(taxonomy.actions), len(taxonomy.bodies))
    table = Table(
        "clip", "is", f"rank of {counts[0]}", "without stills", f"body, of {counts[1]}", "without stills"
    )
    for one in seen:
        ranks = (*one.action.ranks, *one.body.ranks)
        table.add_row(one.clip, taxonomy.actions[one.label].code, *(f"{rank:g}" for rank in ranks))
    table.add_section()
    mean = document["mean_rank"]
    values = [mean[level][way] for level in ("action", "body") for way in ("raw", "moving")]
    table.add_row("mean", "", *(f"{value:.1f}" for value in values))
    guesses = [
        f"{mean[level]['chance']:g} ± {mean[level]['chance_deviation']:.1f}" for level in ("action", "body")
    ]
    table.add_row("of guesses", "", guesses[0], guesses[0], guesses[1], guesses[1])
    print_table(table)
