"""Engines that run a bundle's network: one protocol for several runtimes, imported on demand."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

import structlog

from model.arrays import Booleans, Floats, Images
from model.bundle import GRAPH, WEIGHTS, Bundle
from model.errors import EngineError
from model.openvino_core import CONFIG, openvino_core

if TYPE_CHECKING:
    from torch import nn

log = structlog.get_logger()

EngineName = Literal["auto", "openvino", "onnx", "torch"]
Device = Literal["cpu", "cuda"]


class RawPoints(NamedTuple):
    """Raw predictions for one window, float32: logits (points, actions) and offsets (points, 2) in strides."""

    logits: Floats
    offsets: Floats


class Engine(Protocol):
    """A network loaded into a runtime; see EngineName and Device."""

    name: str
    device: str
    precision: str  # of computation, such as fp32

    def run(self, clips: Images, mask: Booleans) -> RawPoints:
        """Run the network on one window.

        Clips are (clips, frames, height, width, 3) uint8 RGB; the mask (window_frames,) is True for steps with a frame.
        """


class OpenVinoEngine:
    """OpenVINO on the CPU, the fastest engine there."""

    name, device, precision = "openvino", "cpu", "fp32"

    def __init__(self, bundle: Bundle, cache_dir: Path | None) -> None:
        config = dict(CONFIG)
        if cache_dir is not None and _can_write(cache_dir):
            config["CACHE_DIR"] = str(cache_dir)
        self._compiled = openvino_core().compile_model(str(bundle.folder / GRAPH), "CPU", config)

    def run(self, clips: Images, mask: Booleans) -> RawPoints:
        """See Engine."""
        logits, offsets = self._compiled([clips[None], mask[None]]).to_tuple()
        return RawPoints(logits[0], offsets[0])


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no_engine_cache", folder=str(folder), reason=error.strerror)
        return False
    return os.access(folder, os.W_OK)


class OnnxEngine:
    """onnxruntime, on the CPU or on CUDA."""

    name, precision = "onnx", "fp32"

    def __init__(self, bundle: Bundle, device: Device) -> None:
        import onnxruntime

        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        self.device: str = device
        self._session = onnxruntime.InferenceSession(str(bundle.folder / GRAPH), providers=[provider])
        # Without CUDA, onnxruntime only logs a warning and runs on the CPU.
        if provider not in self._session.get_providers():
            raise EngineError(
                f"onnxruntime has no {provider} here: install the gpu extra on a machine with a GPU, or use device cpu"
            )

    def run(self, clips: Images, mask: Booleans) -> RawPoints:
        """See Engine."""
        logits, offsets = self._session.run(None, {"clips": clips[None], "mask": mask[None]})
        return RawPoints(logits[0], offsets[0])


class TorchEngine:
    """torch with a network in memory; with a bundle's weights, the reference for checks of the exported graph."""

    name, precision = "torch", "fp32"

    def __init__(self, network: "nn.Module", device: str) -> None:
        """The network has the inputs and outputs of Network; it is moved to this device of torch."""
        self.device = device
        self.network = network.eval().to(device)

    @classmethod
    def load(cls, bundle: Bundle, device: Device) -> Self:
        """Load the network of a bundle."""
        import torch
        from safetensors.torch import load_file

        from model.network import Network

        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("torch finds no CUDA device here: use device cpu")
        network = Network(bundle.manifest)
        network.load_state_dict(load_file(bundle.folder / WEIGHTS))
        return cls(network, device)

    def run(self, clips: Images, mask: Booleans) -> RawPoints:
        """See Engine."""
        import torch

        with torch.inference_mode():
            inputs = (torch.from_numpy(array[None]).to(self.device) for array in (clips, mask))
            logits, offsets = (part[0].float().cpu().numpy() for part in self.network(*inputs))
        return RawPoints(logits, offsets)


_FACTORIES: dict[str, tuple[str, Callable[[Bundle, Device, Path | None], Engine]]] = {
    "openvino": ("openvino", lambda bundle, _device, cache: OpenVinoEngine(bundle, cache)),
    "onnx": ("onnxruntime", lambda bundle, device, _cache: OnnxEngine(bundle, device)),
    "torch": ("torch", lambda bundle, device, _cache: TorchEngine.load(bundle, device)),
}
# Fastest first, as measured.
_ORDER: dict[Device, tuple[str, ...]] = {"cpu": ("openvino", "onnx", "torch"), "cuda": ("onnx", "torch")}


def load_engine(
    bundle: Bundle, name: EngineName = "auto", device: Device = "cpu", cache_dir: Path | None = None
) -> Engine:
    """Load a bundle's network into an engine; "auto" selects the fastest one that is installed for the device.

    OpenVINO caches compiled networks in `cache_dir`. Raises EngineError.
    """
    order = _ORDER[device]
    if name != "auto" and name not in order:
        raise EngineError(f"engine {name} does not run on {device}; choose one of {', '.join(order)}")
    reasons: list[str] = []
    for candidate in order if name == "auto" else (name,):
        module, make = _FACTORIES[candidate]
        if not find_spec(module):
            reasons.append(f"engine {candidate} is not installed; install an extra of mmad: worker, onnx, gpu or train")
            continue
        try:
            engine = make(bundle, device, cache_dir)
            log.info("engine_loaded", engine=candidate, asked_for=name, device=device, passed_over=reasons)
            return engine
        except EngineError as error:
            reasons.append(str(error))
    raise EngineError("; ".join(reasons))
