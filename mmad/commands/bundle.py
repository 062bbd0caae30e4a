"""`mmad labels`, `mmad export` and `mmad bundle`: make and inspect bundles."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmad.options import AsJson, BundleDir, load_bundle, load_configured_bundle
from mmad.terminal import exit_on, out, print_table, write, write_json

app = typer.Typer()
group = typer.Typer(help="Inspect a bundle.", no_args_is_help=True)


@app.command()
def labels(bundle: BundleDir = None, as_json: AsJson = False) -> None:
    """List the classes of a bundle: actions and body parts."""
    taxonomy = load_configured_bundle(bundle).manifest.taxonomy
    if as_json:
        write_json(taxonomy.model_dump())
        return
    rows = [(one.id, one.code, one.name, taxonomy.bodies[one.body_id].name) for one in taxonomy.actions]
    print_table(("id", "code", "action", "body part"), rows)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint from training.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Bundle folder to create.")],
    weights: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(help="Type of stored weights; fp16 halves the size, computation stays fp32."),
    ] = "fp32",
    locator: Annotated[
        Path | None, typer.Option(help="Person locator, a file written by python -m training.locate.")
    ] = None,
) -> None:
    """Make a bundle from a checkpoint (weights, ONNX graph, hashes) and compare the engines with torch."""
    from model.errors import DetectorError
    from model.export import export_bundle

    def print_error(engine: str, max_abs_error: float) -> None:
        out.print(f"{engine}: max abs error against torch {max_abs_error:.2e}")

    with exit_on(DetectorError, OSError):
        bundle = export_bundle(checkpoint, out_dir, print_error, weights, locator)
    out.print(f"{bundle.folder}: {bundle.manifest.name} {bundle.manifest.version}")


@group.command("show")
def bundle_show(folder: Annotated[Path, typer.Argument(help="Bundle folder.")], as_json: AsJson = False) -> None:
    """Show the description of a bundle, its training data and its metrics."""
    manifest = load_bundle(folder).manifest
    if as_json:
        write(manifest.to_json().rstrip())
        return
    config, backbone, adapter = manifest.input, manifest.architecture.backbone, manifest.architecture.adapter
    rows = {
        "name": f"{manifest.name} {manifest.version}",
        "trained on": manifest.trained_on.data if manifest.trained_on else "nothing: its answers have no meaning",
        "licence": manifest.licence,
        "classes": f"{len(manifest.taxonomy.actions)} actions, {len(manifest.taxonomy.bodies)} body parts",
        "input": f"{config.width} x {config.height} at {config.fps:g} fps, windows of {config.window_frames} frames",
        "backbone": f"width {backbone.embed_dim}, {backbone.depth} blocks, adapter {adapter.kind}",
        "metrics": manifest.metrics,
        **manifest.files,
    }
    print_table([], list(rows.items()))


@group.command("verify")
def bundle_verify(folder: Annotated[Path, typer.Argument(help="Bundle folder.")]) -> None:
    """Check a bundle's schema and the hash of every file."""
    bundle = load_bundle(folder)
    out.print(f"{folder}: {bundle.manifest.name} {bundle.manifest.version}, all files fit")
