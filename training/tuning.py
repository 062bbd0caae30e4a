"""Which weights training moves: the head always, the backbone's own or its adapters' by choice."""

from functools import partial
from typing import Literal

from torch.utils.checkpoint import checkpoint

from model.network import Network
from model.pose import PoseBackbone

Tuning = Literal["head", "adapters", "reader", "all", "auto"]

_FINDER = "backbone.finder."


def resolve_tuning(network: Network, tuning: Tuning) -> Tuning:
    """What auto means for a network: its adapters, or else all that reads joints, or else all of it."""
    if tuning != "auto":
        return tuning
    names = [name for name, _ in network.named_parameters()]
    if any(".adapter." in name for name in names):
        return "adapters"
    return "reader" if any(name.startswith(_FINDER) for name in names) else "all"


def set_trainable(network: Network, tuning: Tuning) -> list[str]:
    """Freeze what is not to move.

    Args:
        network: its parameters' requires_grad is set.
        tuning: "head" is frozen features, "adapters" the paper's way, "reader" all but what finds joints in pictures,
            "all" full fine-tuning, "auto" as resolve_tuning() says.

    Returns:
        Names of the parameters that move.
    """
    tuning = resolve_tuning(network, tuning)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_moves(name, tuning))
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _moves(name: str, tuning: Tuning) -> bool:
    if tuning == "all" or not name.startswith("backbone."):
        return True
    if tuning == "reader":
        return not name.startswith(_FINDER)
    return tuning == "adapters" and ".adapter." in name


def recompute_blocks(network: Network) -> None:
    """Keep no activations inside the backbone's blocks: they are computed again in the backward pass, for memory."""
    backbone = network.backbone
    for block in backbone.finder.stages if isinstance(backbone, PoseBackbone) else backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
