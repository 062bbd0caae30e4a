"""`mmad bench`: measures the speed of decoding and of every installed engine."""

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
        write_json(report)
        return
    rows = [
        [value if isinstance(value, str) else f"{value:.3g}" for value in row.values()] for row in report.pop("rows")
    ]
    print_table(("", "median s", "min s", "max s", "times real time", "ratio"), rows)
    out.print("{clip}; {bundle}; {rounds} rounds; {machine}, {cores} cores".format(**report))
