"""`mmad bench`: the speed of decoding and of every engine installed."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mmad.options import AsJson, BundleDir, load_bundle, settings_with
from mmad.terminal import bar, failing_on, out, print_table, tell, write

app = typer.Typer()


@app.command()
def bench(
    clip: Annotated[Path | None, typer.Option(help="Video to use instead of a generated one.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the generated clip.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each, after a warm-up.")] = 5,
    bundle: BundleDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure the whole way here: decoding alone, and every engine installed."""
    import tempfile

    from mmad import benchmark
    from model.errors import DetectorError

    loaded = load_bundle(settings_with({"bundle"}, bundle=bundle).bundle)
    with failing_on(DetectorError, OSError), tempfile.TemporaryDirectory() as folder, bar("bench") as show:
        video = clip or Path(folder) / "generated-1080x1296-30fps.mp4"
        if clip is None:
            benchmark.write_clip(video, seconds=seconds)
        report = benchmark.run(loaded, video, rounds, tell, show)
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
