"""From a checkpoint to a bundle: weights, exported graph, hashes, and a check against torch."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle import (
    GRAPH,
    LOCATOR,
    MANIFEST,
    WEIGHTS,
    Bundle,
    LocatorConfig,
    Manifest,
    parse_manifest,
    sha256,
)
from model.engines import Engine, EngineName, load_engine
from model.errors import BundleError, EngineError
from model.network import Network

OPSET = 20
MAX_ABS_ERROR = 1e-4
Weights = Literal["fp32", "fp16"]
# Smaller initialisers of a graph are not worth a node each.
_WORTH_HALVING = 1000
# The checkpoint's header carries the manifest, so that one file is enough and no pickle is read.
_HEADER = "mmad_manifest"
LOCATOR_HEADER = "mmad_locator"


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from torch on the same input: the largest absolute difference of any output."""

    engine: str
    max_abs_error: float


def save_checkpoint(path: Path, network: Network, manifest: Manifest) -> None:
    """Write weights and manifest into one safetensors file."""
    save_file(_packed(network), path, metadata={_HEADER: manifest.to_json()})


def _packed(network: Network) -> dict[str, Tensor]:
    """Its state in the usual order in memory: files know no other, convolutions may have one of their own."""
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read what save_checkpoint wrote; raises BundleError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path} is no checkpoint: {error}") from error
    except Exception as error:  # safetensors' own error has no public base but Exception
        raise BundleError(f"{path} is no safetensors file: {error}") from error
    if header is None:
        raise BundleError(f"{path} has no mmad manifest in its header: it was not written by mmad's training")
    return load_file(path), parse_manifest(header, path)


def export_bundle(
    checkpoint: Path,
    folder: Path,
    say: Callable[[Agreement], None] = lambda _agreement: None,
    weights: Weights = "fp32",
    locator: Path | None = None,
) -> Bundle:
    """Make a bundle folder and check every installed engine against torch.

    Args:
        checkpoint: from save_checkpoint.
        folder: made if need be; what it holds is replaced once the new files have passed the check.
        say: told of each engine's agreement.
        weights: how both files store them; fp16 halves a bundle, and is rounded to once, here: computation is fp32.
        locator: from `python -m training.locate`, to come with the bundle.

    Raises:
        BundleError: the checkpoint does not fit its manifest or has weights that fp16 cannot hold; the locator is none.
        EngineError: an engine differs from torch by more than MAX_ABS_ERROR.
    """
    trained, manifest = load_checkpoint(checkpoint)
    manifest = manifest.model_copy(update={"locator": read_locator(locator) if locator else None})
    network = Network(manifest).eval()
    try:
        network.load_state_dict(trained)
    except RuntimeError as error:
        raise BundleError(f"{checkpoint}: weights do not fit the architecture: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.resolve().parent) as aside:
        if locator:
            shutil.copyfile(locator, Path(aside) / LOCATOR)
        _write_bundle(network, manifest, Path(aside), weights)
        check_engines(Bundle.load(Path(aside)), say)
        for name in (WEIGHTS, GRAPH, *([LOCATOR] if locator else []), MANIFEST):
            (Path(aside) / name).replace(folder / name)
    return Bundle.load(folder)


def _write_bundle(network: Network, manifest: Manifest, folder: Path, weights: Weights) -> None:
    stored = _packed(network)
    if weights == "fp16":
        stored = halved(stored)
        network.load_state_dict(stored)  # as fp32: the graph is made of what the weights' file holds
    save_file(stored, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes files that only their owner reads
    export_graph(network, manifest, folder / GRAPH, weights)
    names = (WEIGHTS, GRAPH, LOCATOR) if manifest.locator else (WEIGHTS, GRAPH)
    files = {name: sha256(folder / name) for name in names}
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).to_json(), encoding="utf-8")


def read_locator(path: Path) -> LocatorConfig:
    """How a locator's file says it is used; raises BundleError for any other file."""
    try:
        properties = {one.key: one.value for one in onnx.load(path).metadata_props}
        return LocatorConfig.model_validate_json(properties.get(LOCATOR_HEADER, ""))
    except Exception as error:  # protobuf's own errors come untyped
        raise BundleError(
            f"{path} is no locator: make one with python -m training.locate ({error})"
        ) from error


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels rounded to fp16; vectors (biases, norms) are few and stay as they are.

    Raises:
        BundleError: a weight beyond fp16's range.
    """
    halves = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    for name, value in halves.items():
        if not torch.isfinite(value).all():
            raise BundleError(f"{name} has weights beyond the range of fp16: export with --weights fp32")
    return halves


def export_graph(network: Network, manifest: Manifest, path: Path, weights: Weights = "fp32") -> None:
    """Write the network as ONNX: uint8 clips and a mask in, logits and offsets out; batch and clips are free."""
    clips, mask = (torch.from_numpy(array) for array in example(manifest, batch=2, clips=2))
    with warnings.catch_warnings():
        # The exporter warns of its own internals, which nobody here can mend.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (clips, mask),
            dynamo=True,
            opset_version=OPSET,
            input_names=["clips", "mask"],
            output_names=["logits", "offsets"],
            dynamic_shapes=({0: "batch", 1: "clips"}, {0: "batch"}),
            verbose=False,
        )
    assert program is not None
    model = without_traces(program.model_proto)
    onnx.save_model(_store_halves(model) if weights == "fp16" else model, path)


def example(manifest: Manifest, batch: int, clips: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Seeded random clips (batch, clips, frames, height, width, 3) uint8, and a mask that ends amid the last clip."""
    config = manifest.input
    shape = (batch, clips, config.clip_frames, config.height, config.width, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    valid = clips * config.clip_frames - config.clip_frames // 2
    return pictures, np.tile(np.arange(config.window_frames) < valid, (batch, 1))


def check_engines(bundle: Bundle, say: Callable[[Agreement], None]) -> None:
    """Run every engine installed on the same window as torch; raises EngineError for one that differs."""
    reference = load_engine(bundle, "torch")
    names: tuple[EngineName, ...] = ("onnx", "openvino")
    checked = 0
    for name in names:
        try:
            engine = load_engine(bundle, name)
        except EngineError:
            continue
        agreement = Agreement(name, difference(engine, reference, bundle.manifest))
        say(agreement)
        checked += 1
        if agreement.max_abs_error > MAX_ABS_ERROR:
            raise EngineError(
                f"engine {name} differs from torch by {agreement.max_abs_error:.2e}, the limit is {MAX_ABS_ERROR:.0e}"
            )
    if not checked:
        raise EngineError("the graph could not be checked: install the onnx or the worker extra of mmad")


def difference(engine: Engine, reference: Engine, manifest: Manifest) -> float:
    """The largest absolute difference of two engines, over a short and a full window; infinite for no numbers."""
    most = manifest.input.window_frames // manifest.input.clip_frames
    worst: list[float] = []
    for count in sorted({1, most}):
        clips, mask = example(manifest, batch=1, clips=count)
        if count == most:
            mask[:] = True
        ours, theirs = (one.run(clips[0], mask[0]) for one in (engine, reference))
        worst += [float(np.abs(mine - other).max()) for mine, other in zip(ours, theirs, strict=True)]
    # Comparisons with NaN are False: it would pass for agreement.
    return max(worst) if np.isfinite(worst).all() else float("inf")


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter notes source paths in every node: they name the machine and double the file's size."""
    del model.metadata_props[:]
    for graph in [model.graph, *model.functions]:
        del graph.metadata_props[:]
        for part in [*graph.node, *graph.value_info]:
            del part.metadata_props[:]
            part.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
    return model


def _store_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep what fp16 holds exactly as fp16, with a Cast back behind each: all that is computed stays fp32."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _WORTH_HALVING:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves, values):  # tables that are no weights were never rounded
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
