"""Export of checkpoints to bundles whose engines agree, for every kind of adapter."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from mmad.cli import app
from model import engines, export
from model.bundle import Bundle, read_manifest
from model.errors import BundleError, EngineError
from tests.untrained_bundle import SMALLEST_HEAD, random_network, small_manifest


@pytest.mark.parametrize("kind", ["none", "standard", "tia", "dsta"])
def test_exported_graph_agrees_for_any_batch_and_number_of_clips(
    kind: str, small_bundle: Callable[[str], Bundle]
) -> None:
    import onnxruntime

    bundle = small_bundle(kind)
    manifest = bundle.manifest
    network = random_network(manifest)
    session = onnxruntime.InferenceSession(str(bundle.folder / "network.onnx"))
    for batch, count in ((1, 1), (1, 4), (2, 3), (3, 2)):
        clips, mask = export.make_example_input(manifest, batch, count)
        graph_outputs = session.run(None, {"clips": clips, "mask": mask})
        with torch.inference_mode():
            network_outputs = network(torch.from_numpy(clips), torch.from_numpy(mask))
        for expected, actual in zip(network_outputs, graph_outputs, strict=True):
            assert expected.shape == actual.shape
            assert np.abs(expected.numpy() - actual).max() < 1e-4


def test_padded_clips_do_not_change_outputs() -> None:
    """Clips beyond the video need not be computed. Only adapters, which mix clips, would see them."""
    manifest = small_manifest("none")
    network = random_network(manifest)
    clips, mask = (torch.from_numpy(array) for array in export.make_example_input(manifest, 1, 2))
    padded = torch.cat([clips, torch.full_like(clips, 99)], dim=1)
    with torch.inference_mode():
        for short, full in zip(network(clips, mask), network(padded, mask), strict=True):
            # Interpolation between tubelets reads half a tubelet past the last clip, which is masked here.
            torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-5)


def test_export_is_reproducible(
    small_bundle: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, first = small_manifest("none"), small_bundle("none")
    _reuse_graph(first.folder / "network.onnx", monkeypatch)
    export.save_checkpoint(tmp_path / "small.safetensors", random_network(manifest), manifest)
    errors: dict[str, float] = {}
    exported = export.export_bundle(tmp_path / "small.safetensors", tmp_path / "bundle", errors.__setitem__)
    assert errors.keys() == {"onnx", "openvino"}
    assert all(error < 1e-4 for error in errors.values())
    unhashed = {"files": {}}
    assert exported.manifest.model_copy(update=unhashed) == first.manifest.model_copy(update=unhashed)
    from safetensors.torch import load_file

    actual, expected = (load_file(folder / "weights.safetensors") for folder in (exported.folder, first.folder))
    assert actual.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(actual[name], weights)


def _reuse_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy this graph instead of exporting it, which takes ten seconds."""
    monkeypatch.setattr(export, "export_graph", lambda network, manifest, path, weights: shutil.copyfile(graph, path))


def test_fp16_bundle_stores_the_same_rounded_weights_in_both_files(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    small = small_manifest("none")  # few nodes and, here, many weights
    wide = {
        "backbone": small.architecture.backbone.model_copy(update={"embed_dim": 192, "depth": 1}),
        "head": SMALLEST_HEAD.model_copy(update={"channels": 64}),
    }
    manifest = small.model_copy(update={"architecture": small.architecture.model_copy(update=wide)})
    network = random_network(manifest)
    export.save_checkpoint(tmp_path / "demo.safetensors", network, manifest)
    completed = CliRunner().invoke(
        app, ["export", "--checkpoint", str(tmp_path / "demo.safetensors"), "--weights", "fp16",
              "--out", str(tmp_path / "fp16")]
    )  # fmt: skip
    assert completed.exit_code == 0, completed.output
    assert completed.output.count("max abs error against torch") == 2
    fp16_bundle = Bundle.load(tmp_path / "fp16")
    fp32_bytes = sum(4 * value.numel() for value in network.state_dict().values())
    for name in ("weights.safetensors", "network.onnx"):
        assert (fp16_bundle.folder / name).stat().st_size < 0.6 * fp32_bytes
    # Engines compute with the stored weights: float32, rounded once.
    loaded = engines.TorchEngine.load(fp16_bundle, "cpu").network.state_dict()
    stored = load_file(fp16_bundle.folder / "weights.safetensors")
    for name, value in network.state_dict().items():
        expected = value.half().float() if value.ndim > 1 else value
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], expected, rtol=0, atol=0)
        assert stored[name].dtype == (torch.float16 if value.ndim > 1 else torch.float32)
    fp16_names = {
        tensor.name
        for tensor in onnx.load(fp16_bundle.folder / "network.onnx").graph.initializer
        if tensor.data_type == 10
    }
    assert any(name.endswith("cls_head.weight.fp16") for name in fp16_names)


def test_weights_beyond_the_range_of_fp16_are_refused(tmp_path: Path) -> None:
    manifest = small_manifest("none")
    network = random_network(manifest)
    with torch.no_grad():
        network.detector.rpn_head.cls_head.weight[0, 0, 0] = 1e5
    export.save_checkpoint(tmp_path / "large", network, manifest)
    with pytest.raises(BundleError, match=r"cls_head.weight has weights beyond the range of fp16"):
        export.export_bundle(tmp_path / "large", tmp_path / "out", weights="fp16")


def test_channels_last_weights_are_saved(tmp_path: Path) -> None:
    manifest = small_manifest("dsta")
    network = random_network(manifest)
    for parameter in network.parameters():
        if parameter.ndim == 5:  # the kernel of the patch embedding
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    assert not all(value.is_contiguous() for value in network.state_dict().values())
    export.save_checkpoint(tmp_path / "checkpoint", network, manifest)
    loaded, _ = export.load_checkpoint(tmp_path / "checkpoint")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


def test_graph_contains_no_local_paths(bundle: Bundle) -> None:
    model = onnx.load(bundle.folder / "network.onnx")
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    content = (bundle.folder / "network.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"site-packages" not in content


def test_engine_with_different_outputs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    model = onnx.load(folder / "network.onnx")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("cls_head.bias"))
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + np.float32(2e-4)).tobytes()
    onnx.save_model(model, folder / "network.onnx")
    files = {name: export.sha256(folder / name) for name in bundle.manifest.files}
    (folder / "bundle.json").write_text(bundle.manifest.model_copy(update={"files": files}).to_json())
    with pytest.raises(EngineError, match="differs from torch by 2.*e-04, the limit is 1e-04"):
        export.check_engines(Bundle.load(folder), lambda *_: None)


class NanEngine(engines.TorchEngine):
    def run(self, clips: np.ndarray, mask: np.ndarray) -> engines.RawPoints:
        points = super().run(clips, mask)
        return engines.RawPoints(points.logits * np.nan, points.offsets)


def test_nan_outputs_count_as_infinite_difference(bundle: Bundle) -> None:
    nan_engine, torch_engine = NanEngine.load(bundle, "cpu"), engines.load_engine(bundle, "torch")
    assert export.max_abs_difference(nan_engine, torch_engine, bundle.manifest) == float("inf")
    assert export.max_abs_difference(nan_engine, nan_engine, bundle.manifest) == float("inf")
    assert export.max_abs_difference(torch_engine, torch_engine, bundle.manifest) == 0


def test_failed_engine_check_preserves_the_existing_bundle(
    bundle: Bundle, small_bundle: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    manifest = small_manifest("none")
    export.save_checkpoint(tmp_path / "small", random_network(manifest), manifest)
    _reuse_graph(small_bundle("none").folder / "network.onnx", monkeypatch)
    monkeypatch.setattr(export, "MAX_ABS_ERROR", -1.0)
    with pytest.raises(EngineError, match="differs from torch"):
        export.export_bundle(tmp_path / "small", folder)
    assert Bundle.load(folder).manifest == bundle.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "small"]


def test_invalid_checkpoints_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match="safetensors"):
        export.load_checkpoint(tmp_path / "text")
    with pytest.raises(BundleError, match="no checkpoint"):
        export.load_checkpoint(tmp_path / "nothing")
    with pytest.raises(BundleError, match="no mmad manifest"):
        export.load_checkpoint(bundle.folder / "weights.safetensors")
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, tmp_path / "strange", metadata={"mmad_manifest": '{"name": 3}'})
    with pytest.raises(BundleError, match="strange: "):
        export.load_checkpoint(tmp_path / "strange")
    manifest = small_manifest("none")
    other = small_manifest("dsta")
    export.save_checkpoint(tmp_path / "wrong", random_network(other), manifest)
    with pytest.raises(BundleError, match="do not fit the architecture"):
        export.export_bundle(tmp_path / "wrong", tmp_path / "out")


def test_all_engines_agree(bundle: Bundle) -> None:
    reference = engines.load_engine(bundle, "torch")
    for name in ("openvino", "onnx"):
        engine = engines.load_engine(bundle, name)  # type: ignore[arg-type]
        assert engine.name == name
        assert export.max_abs_difference(engine, reference, bundle.manifest) < 1e-4


_FREED_ENGINES = """
import ctypes, gc, signal, subprocess, sys
from pathlib import Path
from model.bundle import Bundle
from model.engines import load_engine
from model.locator import load_locator

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def signal_stack():
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.start

bundle = Bundle.load(Path(sys.argv[1]))
first = load_engine(bundle, "openvino", "cpu")
stacks = {signal_stack()}
second = load_locator(bundle)
stacks.add(signal_stack())
first = None
gc.collect()
second = None
gc.collect()
stacks.add(signal_stack())
handled = []
signal.signal(signal.SIGCHLD, lambda *_: handled.append(1))
subprocess.run(["true"], check=True)
print(len(stacks), len(handled))
"""


def test_signals_are_handled_after_engines_were_freed(shipped: Bundle) -> None:
    """In a separate process: if an OpenVINO Core leaves a freed signal stack behind, a signal crashes the process."""
    command = [sys.executable, "-c", _FREED_ENGINES, str(shipped.folder)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1] == "1 1"


def test_auto_selects_and_logs_the_fastest_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import structlog

    with structlog.testing.capture_logs() as logs:
        assert engines.load_engine(bundle).name == "openvino"
    assert logs[0]["engine"] == "openvino"
    assert logs[0]["asked_for"] == "auto"
    find_spec = engines.find_spec
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    assert engines.load_engine(bundle).name == "onnx"
    with pytest.raises(EngineError, match="engine openvino is not installed; install an extra"):
        engines.load_engine(bundle, "openvino")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_reported(bundle: Bundle) -> None:
    for name in ("onnx", "torch", "auto"):
        with pytest.raises(EngineError, match="device cpu"), pytest.MonkeyPatch.context():
            _load_quietly(bundle, name)
    with pytest.raises(EngineError, match="openvino does not run on cuda"):
        engines.load_engine(bundle, "openvino", "cuda")


def test_auto_skips_engines_without_gpu_support(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> engines.Engine:
        raise EngineError("no GPU support")

    torch_engine = engines.load_engine(bundle, "torch")
    monkeypatch.setitem(engines._FACTORIES, "onnx", ("onnxruntime", refuse))
    monkeypatch.setitem(engines._FACTORIES, "torch", ("torch", lambda *_: torch_engine))
    assert engines.load_engine(bundle, "auto", "cuda") is torch_engine


def _load_quietly(bundle: Bundle, name: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime and mmad warn that there is no CUDA
        engines.load_engine(bundle, name, "cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("model.detector", ["torch", "openvino", "onnxruntime", "fastapi", "redis"]),
        ("workers.main", ["torch", "openvino", "onnxruntime", "fastapi"]),
        ("service.app", ["torch", "openvino", "onnxruntime", "av", "model"]),
        ("mmad.client", ["torch", "numpy", "av", "fastapi", "redis", "model", "service.app", "service.settings"]),
        ("mmad.cli", ["torch", "numpy", "av", "fastapi", "redis", "model", "service.app", "service.settings"]),
    ],
)
def test_modules_import_only_what_they_need(module: str, absent: list[str]) -> None:
    code = f"import {module}, sys; print([name for name in {absent!r} if name in sys.modules])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    completed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert completed.stdout.strip() == "[]"


def test_read_manifest_returns_the_manifest_of_the_bundle(bundle: Bundle) -> None:
    assert read_manifest(bundle.folder / "bundle.json") == bundle.manifest
