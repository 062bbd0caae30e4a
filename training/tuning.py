"""Which weights training moves: the head always, the backbone's own or its adapters' by choice."""

from functools import partial
from typing import Literal

from torch.utils.checkpoint import checkpoint

from model.network import Network
from model.pose import PoseBackbone

Tuning = Literal["head", "adapters", "all", "auto"]


def chosen(network: Network, tuning: Tuning) -> Tuning:
    """What auto means for a network: its adapters where it has some, otherwise all of it."""
    if tuning != "auto":
        return tuning
    adapted = any(".adapter." in name for name, _ in network.named_parameters())
    return "adapters" if adapted else "all"


def set_trainable(network: Network, tuning: Tuning) -> list[str]:
    """Freeze what is not to move.

    Args:
        network: its parameters' requires_grad is set.
        tuning: "head" is frozen features, "adapters" the paper's way, "all" full fine-tuning, "auto" as chosen() says.

    Returns:
        Names of the parameters that move.
    """
    tuning = chosen(network, tuning)
    for name, parameter in network.named_parameters():
        in_backbone = name.startswith("backbone.")
        parameter.requires_grad_(
            tuning == "all" or not in_backbone or (tuning == "adapters" and ".adapter." in name)
        )
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def recompute_blocks(network: Network) -> None:
    """Keep no activations inside the backbone's blocks: they are computed again in the backward pass, for memory."""
    backbone = network.backbone
    for block in backbone.finder.stages if isinstance(backbone, PoseBackbone) else backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
