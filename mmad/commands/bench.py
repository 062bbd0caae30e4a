"""`mmad bench`: measures the speed of decoding and of every installed engine."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mmad.options import AsJson, BundleDir, load_configured_bundle
from mmad.terminal import exit_on, out, print_status, print_table, progress_bar, write_json

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
    from mmad import benchmark
    from model.errors import DetectorError

    loaded = load_configured_bundle(bundle)
    with exit_on(DetectorError, OSError), TemporaryDirectory() as folder, progress_bar("bench") as show:
        video = clip or Path(folder) / "generated-1080x1296-30fps.mp4"
        if clip is None:
            benchmark.write_clip(video, seconds=seconds)
        report = benchmark.run(loaded, video, rounds, print_status, show)
    if as_json:
        write_json(asdict(report))
        return
    rows = [
        (
            row.name,
            *(f"{number:.3g}" for number in (row.median_s, row.min_s, row.max_s, row.times_real_time, row.ratio)),
        )
        for row in report.rows
    ]
    print_table(("", "median s", "min s", "max s", "times real time", "ratio"), rows)
    out.print(f"{report.clip}; {report.bundle}; {report.rounds} rounds; {report.machine}, {report.cores} cores")
