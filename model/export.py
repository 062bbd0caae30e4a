"""Export a checkpoint to a bundle: weights, ONNX graph, hashes, and a check of the engines against torch."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.arrays import Booleans, Images
from model.bundle import GRAPH, LOCATOR, MANIFEST, WEIGHTS, Bundle, LocatorConfig, Manifest, parse_manifest, sha256
from model.engines import Engine, EngineName, load_engine
from model.errors import BundleError, EngineError
from model.network import Network

OPSET = 20
MAX_ABS_ERROR = 1e-4
Weights = Literal["fp32", "fp16"]
# Initialisers of a graph with fewer values stay fp32: each fp16 one needs an additional node.
_MIN_FP16_VALUES = 1000
# The manifest is stored in the checkpoint's header, so that a checkpoint is one file without pickle.
_HEADER = "mmad_manifest"
LOCATOR_HEADER = "mmad_locator"


# Called with the name of an engine and the largest absolute difference between its outputs and those of torch.
OnChecked = Callable[[str, float], None]


def save_checkpoint(path: Path, network: Network, manifest: Manifest) -> None:
    """Write weights and manifest into one safetensors file."""
    save_file(_contiguous_state(network), path, metadata={_HEADER: manifest.to_json()})


def _contiguous_state(network: Network) -> dict[str, Tensor]:
    """Return the state dict with contiguous tensors: files have no memory format, but convolutions may."""
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read weights and manifest from a file that save_checkpoint wrote; raises BundleError."""
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except Exception as error:  # the error of safetensors has no other public base class
        raise BundleError(f"{path} is no checkpoint, which is a safetensors file: {error}") from error
    if header is None:
        raise BundleError(f"{path} has no mmad manifest in its header: it was not written by mmad's training")
    return load_file(path), parse_manifest(header, path)


def export_bundle(
    checkpoint: Path,
    folder: Path,
    on_checked: OnChecked = lambda _engine, _error: None,
    weights: Weights = "fp32",
    locator: Path | None = None,
) -> Bundle:
    """Write a bundle folder from a file of save_checkpoint; files are replaced once all engines have been checked.

    fp16 halves the size of a bundle: weights are rounded once, here, and computation remains fp32. `locator` is a file
    made by `python -m training.locate`. Raises EngineError, see check_engines, and BundleError if the weights do not
    match the manifest or exceed the range of fp16, or the locator is invalid.
    """
    trained, manifest = load_checkpoint(checkpoint)
    manifest = manifest.model_copy(update={"locator": read_locator(locator) if locator else None})
    network = Network(manifest).eval()
    try:
        network.load_state_dict(trained)
    except RuntimeError as error:
        raise BundleError(f"{checkpoint}: weights do not fit the architecture: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.resolve().parent) as name:
        temporary = Path(name)
        if locator:
            shutil.copyfile(locator, temporary / LOCATOR)
        _write_bundle(network, manifest, temporary, weights)
        check_engines(Bundle.load(temporary), on_checked)
        for name in (*manifest.required_files, MANIFEST):
            (temporary / name).replace(folder / name)
    return Bundle.load(folder)


def _write_bundle(network: Network, manifest: Manifest, folder: Path, weights: Weights) -> None:
    stored = _contiguous_state(network)
    if weights == "fp16":
        stored = round_to_fp16(stored)
        network.load_state_dict(stored)  # the graph is exported from the rounded weights, as fp32
    save_file(stored, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files readable for their owner only
    export_graph(network, manifest, folder / GRAPH, weights)
    files = {name: sha256(folder / name) for name in manifest.required_files}
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).to_json(), encoding="utf-8")


def read_locator(path: Path) -> LocatorConfig:
    """Read the configuration from a locator's ONNX file; raises BundleError."""
    try:
        properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        return LocatorConfig.model_validate_json(properties.get(LOCATOR_HEADER, ""))
    except Exception as error:  # protobuf's errors have no common base class
        raise BundleError(f"{path} is no locator: make one with python -m training.locate ({error})") from error


def round_to_fp16(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices and kernels to fp16; vectors (biases, norms) are small and remain fp32. Raises BundleError."""
    halves = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    for name, value in halves.items():
        if not torch.isfinite(value).all():
            raise BundleError(f"{name} has weights beyond the range of fp16: export with --weights fp32")
    return halves


def export_graph(network: Network, manifest: Manifest, path: Path, weights: Weights = "fp32") -> None:
    """Export the network, with the inputs and outputs of Network, to ONNX. Batch size and clips are dynamic."""
    clips, mask = (torch.from_numpy(array) for array in make_example_input(manifest, batch=2, clips=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern the exporter's own internals
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
    model = strip_metadata(program.model_proto)
    if weights == "fp16":
        _store_as_fp16(model)
    onnx.save_model(model, path)


def make_example_input(manifest: Manifest, batch: int, clips: int) -> tuple[Images, Booleans]:
    """Make random clips from a fixed seed, and a mask that ends in the middle of the last clip; see Network."""
    config = manifest.input
    shape = (batch, clips, config.clip_frames, config.height, config.width, 3)
    random_clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    valid = clips * config.clip_frames - config.clip_frames // 2
    return random_clips, np.tile(np.arange(config.window_frames) < valid, (batch, 1))


def check_engines(bundle: Bundle, on_checked: OnChecked) -> None:
    """Raise EngineError if an installed engine differs from torch by more than MAX_ABS_ERROR, or none is installed."""
    reference = load_engine(bundle, "torch")
    names: tuple[EngineName, ...] = ("onnx", "openvino")
    engines = []
    for name in names:
        with suppress(EngineError):
            engines.append(load_engine(bundle, name))
    for engine in engines:
        error = max_abs_difference(engine, reference, bundle.manifest)
        on_checked(engine.name, error)
        if error > MAX_ABS_ERROR:
            raise EngineError(
                f"engine {engine.name} differs from torch by {error:.2e}, the limit is {MAX_ABS_ERROR:.0e}"
            )
    if not engines:
        raise EngineError("the graph could not be checked: install the onnx or the worker extra of mmad")


def max_abs_difference(engine: Engine, reference: Engine, manifest: Manifest) -> float:
    """Return the largest absolute difference of two engines for a short and a full window; infinity for NaN."""
    max_clips = manifest.input.window_frames // manifest.input.clip_frames
    differences: list[float] = []
    for count in sorted({1, max_clips}):
        clips, mask = make_example_input(manifest, batch=1, clips=count)
        if count == max_clips:
            mask[:] = True
        outputs, expected = engine.run(clips[0], mask[0]), reference.run(clips[0], mask[0])
        differences += [float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True)]
    # Comparisons with NaN are False, so that NaN would pass the check.
    return max(differences) if np.isfinite(differences).all() else float("inf")


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the source paths that the exporter adds to every node and that double the size of the file."""
    graphs = [model.graph, *model.functions]
    entries = [model, *graphs, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for graph in graphs:
        entries += [*graph.node, *graph.value_info]
    for entry in entries:
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    return model


def _store_as_fp16(model: onnx.ModelProto) -> None:
    """Store initialisers whose values are exact in fp16 as fp16, each followed by a Cast: computation stays fp32."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _MIN_FP16_VALUES:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves, values):  # constants other than weights were not rounded
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
