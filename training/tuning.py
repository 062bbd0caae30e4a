"""Which weights training moves: the head always, the backbone's own or its adapters' by choice."""

from functools import partial
from typing import Literal

from torch.utils.checkpoint import checkpoint

from model.network import Network

Tuning = Literal["head", "adapters", "all"]


def set_trainable(network: Network, tuning: Tuning) -> list[str]:
    """Freeze what is not to move.

    Args:
        network: its parameters' requires_grad is set.
        tuning: "head" is frozen features, "adapters" the paper's way, "all" full fine-tuning.

    Returns:
        Names of the parameters that move.
    """
    for name, parameter in network.named_parameters():
        in_backbone = name.startswith("backbone.")
        parameter.requires_grad_(
            tuning == "all" or not in_backbone or (tuning == "adapters" and ".adapter." in name)
        )
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def recompute_blocks(network: Network) -> None:
    """Keep no activations inside the backbone's blocks: they are computed again in the backward pass, for memory."""
    for block in network.backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
