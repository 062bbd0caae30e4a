"""`mmad bench`: measures the speed of decoding and of every installed engine."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mmad.options import AsJson, BundleDir, load_bundle, load_settings
from mmad.terminal import exit_on, out, print_status, print_table, progress_bar, write

app = typer.Typer()


@app.command()
def bench(
    clip: Annotated[Path | None, typer.Option(help="Video to use instead of a generated one.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the generated clip.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Measured runs of each, after a warm-up.")] = 5,
    bundle: BundleDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure the speed of detection on this machine: decoding alone, and with every installed engine."""
    import tempfile

    from mmad import benchmark
    from model.errors import DetectorError

    loaded = load_bundle(load_settings({"bundle"}, bundle=bundle).bundle)
    with exit_on(DetectorError, OSError), tempfile.TemporaryDirectory() as folder, progress_bar("bench") as show:
        video = clip or Path(folder) / "generated-1080x1296-30fps.mp4"
        if clip is None:
            benchmark.write_clip(video, seconds=seconds)
        report = benchmark.run(loaded, video, rounds, print_status, show)
    if as_json:
        write(json.dumps(report.to_json(), indent=1), None)
        return
    table = Table("", "median s", "min s", "max s", "times real time", "ratio")
    for row in report.rows:
        numbers = (row.median_s, row.min_s, row.max_s, row.times_real_time, row.ratio)
        table.add_row(row.name, *(f"{number:.3g}" for number in numbers))
    print_table(table)
    out.print(
        f"{report.clip}; {report.bundle}; {report.rounds} rounds; {report.machine}, {report.cores} cores",
        highlight=False,
    )
