"""Export a checkpoint to a bundle: weights, ONNX graph, hashes, and a check of the engines against torch."""

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


@dataclass(frozen=True)
class Agreement:
    """The largest absolute difference between the outputs of an engine and of torch for the same input."""

    engine: str
    max_abs_error: float


def save_checkpoint(path: Path, network: Network, manifest: Manifest) -> None:
    """Write weights and manifest into one safetensors file."""
    save_file(_contiguous_state(network), path, metadata={_HEADER: manifest.to_json()})


def _contiguous_state(network: Network) -> dict[str, Tensor]:
    """Return the state dict with contiguous tensors: files have no memory format, but convolutions may."""
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read weights and manifest from a file that save_checkpoint wrote.

    Raises:
        BundleError: the file is not such a checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path} is no checkpoint: {error}") from error
    except Exception as error:  # the error of safetensors has no other public base class
        raise BundleError(f"{path} is no safetensors file: {error}") from error
    if header is None:
        raise BundleError(f"{path} has no mmad manifest in its header: it was not written by mmad's training")
    return load_file(path), parse_manifest(header, path)


def export_bundle(
    checkpoint: Path,
    folder: Path,
    on_agreement: Callable[[Agreement], None] = lambda _agreement: None,
    weights: Weights = "fp32",
    locator: Path | None = None,
) -> Bundle:
    """Write a bundle folder and check every installed engine against torch.

    Args:
        checkpoint: a file written by save_checkpoint.
        folder: created if necessary; its files are replaced once the new ones have passed the check.
        on_agreement: called with the agreement of each engine.
        weights: precision of the weights in both files. fp16 halves the size of a bundle: weights are rounded once,
            here, and computation remains fp32.
        locator: a locator made by `python -m training.locate`, to include in the bundle.

    Raises:
        BundleError: the weights do not match the manifest or exceed the range of fp16, or the locator is invalid.
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
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.resolve().parent) as temporary:
        if locator:
            shutil.copyfile(locator, Path(temporary) / LOCATOR)
        _write_bundle(network, manifest, Path(temporary), weights)
        check_engines(Bundle.load(Path(temporary)), on_agreement)
        for name in (WEIGHTS, GRAPH, *([LOCATOR] if locator else []), MANIFEST):
            (Path(temporary) / name).replace(folder / name)
    return Bundle.load(folder)


def _write_bundle(network: Network, manifest: Manifest, folder: Path, weights: Weights) -> None:
    stored = _contiguous_state(network)
    if weights == "fp16":
        stored = round_to_fp16(stored)
        network.load_state_dict(stored)  # the graph is exported from the rounded weights, as fp32
    save_file(stored, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files readable for their owner only
    export_graph(network, manifest, folder / GRAPH, weights)
    names = (WEIGHTS, GRAPH, LOCATOR) if manifest.locator else (WEIGHTS, GRAPH)
    files = {name: sha256(folder / name) for name in names}
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).to_json(), encoding="utf-8")


def read_locator(path: Path) -> LocatorConfig:
    """Read the configuration from a locator's ONNX file.

    Raises:
        BundleError: the file is not a locator.
    """
    try:
        properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        return LocatorConfig.model_validate_json(properties.get(LOCATOR_HEADER, ""))
    except Exception as error:  # protobuf's errors have no common base class
        raise BundleError(f"{path} is no locator: make one with python -m training.locate ({error})") from error


def round_to_fp16(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices and kernels to fp16; vectors (biases, norms) are small and remain fp32.

    Raises:
        BundleError: a weight exceeds the range of fp16.
    """
    halves = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    for name, value in halves.items():
        if not torch.isfinite(value).all():
            raise BundleError(f"{name} has weights beyond the range of fp16: export with --weights fp32")
    return halves


def export_graph(network: Network, manifest: Manifest, path: Path, weights: Weights = "fp32") -> None:
    """Export the network to ONNX. Batch size and number of clips are dynamic.

    Inputs are clips and mask, outputs are logits and offsets; see Network.
    """
    clips, mask = (torch.from_numpy(array) for array in make_example_input(manifest, batch=2, clips=2))
    with warnings.catch_warnings():
        # The exporter's warnings concern its own internals.
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
    model = strip_metadata(program.model_proto)
    onnx.save_model(_store_as_fp16(model) if weights == "fp16" else model, path)


def make_example_input(manifest: Manifest, batch: int, clips: int) -> tuple[Images, Booleans]:
    """Make random clips (batch, clips, frames, height, width, 3) uint8 from a fixed seed, and a mask.

    The mask (batch, window_frames) bool ends in the middle of the last clip.
    """
    config = manifest.input
    shape = (batch, clips, config.clip_frames, config.height, config.width, 3)
    random_clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    valid = clips * config.clip_frames - config.clip_frames // 2
    return random_clips, np.tile(np.arange(config.window_frames) < valid, (batch, 1))


def check_engines(bundle: Bundle, on_agreement: Callable[[Agreement], None]) -> None:
    """Compare the outputs of every installed engine with those of torch.

    Raises:
        EngineError: an engine differs by more than MAX_ABS_ERROR, or none is installed.
    """
    reference = load_engine(bundle, "torch")
    names: tuple[EngineName, ...] = ("onnx", "openvino")
    checked = 0
    for name in names:
        try:
            engine = load_engine(bundle, name)
        except EngineError:
            continue
        agreement = Agreement(name, max_abs_difference(engine, reference, bundle.manifest))
        on_agreement(agreement)
        checked += 1
        if agreement.max_abs_error > MAX_ABS_ERROR:
            raise EngineError(
                f"engine {name} differs from torch by {agreement.max_abs_error:.2e}, the limit is {MAX_ABS_ERROR:.0e}"
            )
    if not checked:
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
    del model.metadata_props[:]
    for graph in [model.graph, *model.functions]:
        del graph.metadata_props[:]
        for entry in [*graph.node, *graph.value_info]:
            del entry.metadata_props[:]
            entry.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
    return model


def _store_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
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
    return model
