"""Which weights training moves: the head always, the backbone's own or its adapters' by choice."""

from typing import Literal

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
