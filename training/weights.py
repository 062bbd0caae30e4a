"""Import weights of VideoMAE backbones, and of whole OpenTAD / AdaTAD detectors.

A backbone comes as a Hugging Face folder (VideoMAEModel, ForPreTraining, ForVideoClassification), the original
.pth or MMAction2's; a detector as OpenTAD saves it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.architecture import SIZES, AdapterConfig, AnyBackbone, Architecture, BackboneConfig, HeadConfig, PoseConfig
from model.backbone import Backbone
from model.bundle import InputConfig, Manifest, PostprocessingConfig, Thresholds, Training
from model.export import save_checkpoint
from model.network import Network
from model.pose import PoseBackbone
from model.taxonomy import Taxonomy
from training.recipe import merge_settings
from training.tables import read_json

# Keys of the weights in published files; EMA weights come first, since their authors evaluate them.
_CONTAINERS = ("state_dict_ema", "ema_state_dict", "state_dict", "model", "module")
_PREFIX = re.compile(
    r"^(module\.|ema\.|model\.backbone\.|backbone\.model\.backbone\.|backbone\.|videomae\.|encoder\.(?=patch_embed|blocks|norm))"
)
_DETECTOR_PARTS = ("projection.", "neck.", "rpn_head.")

# Backbone: pattern of the source name, and our name. Separate query, key and value weights are joined afterwards.
_RULES = [
    (r"(?:patch_embed|embeddings\.patch_embeddings)(?:\.proj|\.projection)?\.(weight|bias)", r"patch_embed.\1"),
    (r"blocks\.(\d+)\.(norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.([qv]_bias)", r"blocks.\1.attn.\2"),
    (r"blocks\.(\d+)\.mlp\.layers\.0\.0\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"blocks\.(\d+)\.mlp\.layers\.1\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"blocks\.(\d+)\.adapter\.(.+)", r"blocks.\1.adapter.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight", r"blocks.\1.attn.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(?:query\.bias|q_bias)", r"blocks.\1.attn.q_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(?:value\.bias|v_bias)", r"blocks.\1.attn.v_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"(?:norm|layernorm)\.(weight|bias)", r"norm.\1"),
]
_HEADER = "mmad_backbone"


class WeightsError(Exception):
    """Raised for a file without matching weights; the message states the fault."""


@dataclass(frozen=True)
class Imported:
    """Weights by our names, source names that were not translated, and settings of the configuration of the file."""

    backbone: dict[str, Tensor]
    detector: dict[str, Tensor]
    unmatched: list[str]
    hints: Mapping[str, Any]

    @property
    def matched(self) -> int:
        """Number of translated tensors."""
        return len(self.backbone) + len(self.detector)


def read_weights(source: Path) -> Imported:
    """Read a Hugging Face folder, a .pth or a .safetensors file. Raises WeightsError without a VideoMAE backbone."""
    tensors, hints = _read_folder(source) if source.is_dir() else (_read_file(source), {})
    backbone: dict[str, Tensor] = {}
    detector: dict[str, Tensor] = {}
    unmatched = []
    for name, tensor in tensors.items():
        plain = name
        while match := _PREFIX.match(plain):
            plain = plain[match.end() :]
        if plain.startswith(_DETECTOR_PARTS) and plain != "rpn_head.loss_normalizer":
            detector[plain] = tensor
        elif our_name := _translate(plain):
            backbone[our_name] = tensor
        else:
            unmatched.append(name)
    if not {"patch_embed.weight", "blocks.0.mlp.fc1.weight"} <= backbone.keys():
        shown = ", ".join(list(tensors)[:5])
        raise WeightsError(
            f"{source} holds no VideoMAE backbone: no patch embedding or no blocks "
            f"among its {len(tensors)} tensors ({shown}, ...)"
        )
    return Imported(_join_qkv(backbone), detector, unmatched, hints)


def read_settings(path: Path) -> dict[str, Any]:
    """Read parts of a manifest from a JSON file. Raises AnnotationError or WeightsError."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise WeightsError(f"{path} holds no parts of a bundle.json, such as input or architecture")
    return settings


def backbone_config(imported: Imported, settings: Mapping[str, Any] = MappingProxyType({})) -> BackboneConfig:
    """Derive the configuration from weights; its heads from settings, file, or the published sizes."""
    weights = imported.backbone
    dim, _, tubelet, patch, _ = weights["patch_embed.weight"].shape
    known = {size.embed_dim: size.heads for size in SIZES.values()}
    given = settings.get("architecture", {}).get("backbone", {})
    heads = given.get("heads", imported.hints.get("heads", known.get(dim)))
    if heads is None:
        raise WeightsError(
            f"how many heads a backbone of width {dim} has is not known: give --config a file with "
            '{"architecture": {"backbone": {"heads": N}}}'
        )
    return BackboneConfig(
        embed_dim=dim,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        patch_size=patch,
        tubelet_size=tubelet,
        position_grid=given.get("position_grid", imported.hints.get("image_size", 14 * patch) // patch),
        norm_eps=imported.hints.get("norm_eps", 1e-6),
        final_norm="norm.weight" in weights,
    )


def adapter_config(imported: Imported) -> AdapterConfig:
    """Derive the adapters' configuration from the names and shapes of their weights."""
    inner = {name.split(".adapter.")[1]: tensor for name, tensor in imported.backbone.items() if ".adapter." in name}
    if not inner:
        return AdapterConfig(kind="none")
    down = next(tensor for name, tensor in inner.items() if name.endswith("down_proj.weight"))
    temporal = inner.get("temporal_dwconv.weight", inner.get("dwconv.weight"))
    spatial = inner.get("spatial_dwconv.weight")
    kinds = {"temporal_down_proj": "dsta_two_down", "spatial_dwconv": "dsta", "conv": "tia"}
    kind = next((kind for name, kind in kinds.items() if f"{name}.weight" in inner), "standard")
    return AdapterConfig(
        kind=kind,  # type: ignore[arg-type]
        ratio=down.shape[0] / down.shape[1],
        temporal_kernel=temporal.shape[-1] if temporal is not None else 3,
        spatial_kernel=spatial.shape[-1] if spatial is not None else 3,
    )


def head_config(imported: Imported) -> HeadConfig:
    """Derive the configuration of an ActionFormer head from its weights; attention heads and windows are defaults."""
    weights = imported.detector
    for name in ("projection.embed.0.conv.weight", "neck.fpn_norms.0.weight", "rpn_head.cls_head.weight"):
        if name not in weights:
            raise WeightsError(f"this detector is no ActionFormer of OpenTAD: it has no {name}")
    channels, _, kernel = weights["projection.embed.0.conv.weight"].shape
    return HeadConfig(
        channels=channels,
        kernel_size=kernel,
        embed_convs=_count(weights, r"projection\.embed\.(\d+)\."),
        stem_blocks=_count(weights, r"projection\.stem\.(\d+)\."),
        branch_blocks=_count(weights, r"projection\.branch\.(\d+)\."),
        head_convs=_count(weights, r"rpn_head\.cls_convs\.(\d+)\."),
        path_dropout=0.1 if any("drop_path" in name for name in weights) else 0.0,
    )


def detector_manifest(imported: Imported, taxonomy: Taxonomy, settings: Mapping[str, Any]) -> Manifest:
    """Make a manifest for a detector, with the taxonomy in the order of its classes. Raises WeightsError."""
    head = head_config(imported)
    actions = imported.detector["rpn_head.cls_head.weight"].shape[0]
    if actions != len(taxonomy.actions):
        raise WeightsError(f"the detector has {actions} classes, the label list {len(taxonomy.actions)}")
    manifest = Manifest(
        name="imported",
        version="1",
        licence="as its authors say",
        trained_on=Training(data="imported weights; see their source", synthetic=False),
        taxonomy=taxonomy,
        input=InputConfig(
            height=160, width=160, fps=30.0, window_frames=512, overlap_frames=256, clip_frames=16,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        ),
        architecture=Architecture(
            backbone=backbone_config(imported, settings), adapter=adapter_config(imported), head=head
        ),
        postprocessing=PostprocessingConfig(),
        thresholds=Thresholds(default=0.2),
    )  # fmt: skip
    document = merge_settings(manifest.model_dump(mode="json"), settings)
    try:
        return Manifest.model_validate_json(json.dumps(document))
    except ValueError as error:
        raise WeightsError(f"the settings do not fit: {error}") from error


def import_detector(imported: Imported, manifest: Manifest, out: Path) -> None:
    """Write a checkpoint for `mmad export`. Raises WeightsError if weights are missing or have other shapes."""
    network = Network(manifest)
    weights = {f"backbone.{name}": tensor for name, tensor in imported.backbone.items()}
    weights |= {f"detector.{name}": tensor for name, tensor in imported.detector.items()}
    _load(network, weights)
    save_checkpoint(out, network, manifest)


def import_backbone(imported: Imported, config: BackboneConfig, out: Path) -> None:
    """Write a backbone for training. Raises WeightsError if weights are missing or have other shapes."""
    patch = config.patch_size * config.position_grid
    backbone = Backbone(config, adapter_config(imported), 8 * config.tubelet_size, patch, patch)
    _load(backbone, imported.backbone)
    save_backbone(backbone.state_dict(), config, out)


def save_backbone(weights: dict[str, Tensor], config: BackboneConfig | PoseConfig, out: Path) -> None:
    """Write a backbone file for the recipe setting `backbone`."""
    save_file(weights, out, metadata={_HEADER: config.model_dump_json()})


def load_backbone(path: Path) -> tuple[BackboneConfig | PoseConfig, dict[str, Tensor]]:
    """Read a file of save_backbone. Raises WeightsError if the file has no backbone configuration."""
    with safe_open(path, "pt") as file:
        header = (file.metadata() or {}).get(_HEADER)
    if header is None:
        raise WeightsError(f"{path} is no backbone of mmad import-weights, nor of a stage of training")
    return TypeAdapter(AnyBackbone).validate_json(header), load_file(path)


def start_backbone(backbone: Backbone | PoseBackbone, path: Path) -> None:
    """Load a file of save_backbone. Adapters missing from it start as the identity. Raises WeightsError."""
    config, weights = load_backbone(path)
    file_config, module_config = config.model_dump(), backbone.config.model_dump()
    differing = [
        f"{name} is {file_config.get(name, 'not there')} in the file, {module_config.get(name, 'not there')} here"
        for name in file_config | module_config
        if file_config.get(name) != module_config.get(name)
    ]
    if differing:
        raise WeightsError(f"{path} holds another backbone; " + "; ".join(differing))
    _load(backbone, weights)


def _load(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights strictly. Blocks without an adapter retain the module's, an identity: OpenTAD may omit some."""
    expected = module.state_dict()
    adapted = {name.partition(".adapter.")[0] for name in weights if ".adapter." in name}
    for name, tensor in expected.items():
        block, adapter, _ = name.partition(".adapter.")
        if adapter and block not in adapted:
            weights = weights | {name: tensor}
    faults = {
        "missing": sorted(expected.keys() - weights.keys()),
        "without a place": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{name} is {tuple(weights[name].shape)}, wanted {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & weights.keys())
            if weights[name].shape != expected[name].shape
        ],
    }
    if any(faults.values()):
        shown = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in faults.items() if names)
        raise WeightsError(f"the weights do not fit; {shown}")
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()})


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} is no Hugging Face folder: config.json cannot be read ({error})") from error
    if config.get("model_type") != "videomae":
        raise WeightsError(f"{folder} holds a model of type {config.get('model_type')!r}, not 'videomae'")
    hints = {  # with the library's defaults
        "heads": config.get("num_attention_heads", 12),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "image_size": config.get("image_size", 224),
    }
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: tensor for shard in shards for name, tensor in _read_file(folder / shard).items()}, hints
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return _read_file(folder / name), hints
    raise WeightsError(f"{folder} has neither model.safetensors, whole or in shards, nor pytorch_model.bin")


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} wants to run code of its own to be read, which is refused: have it saved again as tensors alone"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except (RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{path} is neither a file of torch nor of safetensors") from error
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            raise WeightsError(f"{path} holds no weights: its keys are {', '.join(map(str, list(content)[:8]))}")
        content = inner
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named weights")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _translate(name: str) -> str | None:
    for pattern, our_name in _RULES:
        if match := re.fullmatch(pattern, name):
            return match.expand(our_name)
    return None


def _join_qkv(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(weights)
    for name in [name for name in weights if name.endswith(".attn.query")]:
        block = name.removesuffix("query")
        try:
            joined[f"{block}qkv.weight"] = torch.cat([joined.pop(block + part) for part in ("query", "key", "value")])
        except KeyError as error:
            raise WeightsError(f"{block}: query, key and value are not all there") from error
    for name in [name for name in joined if name.endswith(".attn.qkv.weight")]:
        for bias in ("q_bias", "v_bias"):  # a model without biases is equal to one with zero biases
            joined.setdefault(name.replace("qkv.weight", bias), torch.zeros(joined[name].shape[1]))
    return joined


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
