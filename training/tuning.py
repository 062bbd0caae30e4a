"""Select trainable weights: always the head, optionally the adapters or the backbone."""

from functools import partial
from typing import Literal

from torch.utils.checkpoint import checkpoint

from model.network import Network
from model.pose import PoseBackbone

Tuning = Literal["head", "adapters", "reader", "all", "auto"]

_FINDER = "backbone.finder."


def resolve_tuning(network: Network, tuning: Tuning) -> Tuning:
    """Resolve auto: adapters if the network has any, else reader if it has a pose estimator, else all."""
    if tuning != "auto":
        return tuning
    names = [name for name, _ in network.named_parameters()]
    if any(".adapter." in name for name in names):
        return "adapters"
    return "reader" if any(name.startswith(_FINDER) for name in names) else "all"


def set_trainable(network: Network, tuning: Tuning) -> list[str]:
    """Set requires_grad of all parameters; return the names of the trainable ones.

    head trains on frozen features, adapters is the paper's method, reader freezes the pose estimator only, all is full
    fine-tuning, auto see resolve_tuning.
    """
    tuning = resolve_tuning(network, tuning)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_is_trainable(name, tuning))
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _is_trainable(name: str, tuning: Tuning) -> bool:
    if tuning == "all" or not name.startswith("backbone."):
        return True
    if tuning == "reader":
        return not name.startswith(_FINDER)
    return tuning == "adapters" and ".adapter." in name


def recompute_blocks(network: Network) -> None:
    """Enable activation checkpointing of the backbone's blocks, which saves memory."""
    backbone = network.backbone
    for block in backbone.finder.stages if isinstance(backbone, PoseBackbone) else backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
