"""Frozen parameters do not change, all others do."""

import pytest
import torch

from model import export
from tests.untrained_bundle import random_network, small_manifest
from training.recipe import Tuning
from training.train import set_trainable


@pytest.mark.parametrize("kind", ["none", "standard", "tia", "dsta", "dsta_two_down"])
@pytest.mark.parametrize("tuning", ["head", "adapters", "all"])
def test_tuning_changes_selected_parameters_only(kind: str, tuning: Tuning) -> None:
    manifest = small_manifest(kind)
    network = random_network(manifest)
    names = set_trainable(network, tuning)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    clips, mask = (torch.from_numpy(array) for array in export.make_example_input(manifest, 1, 2))
    points = network(clips, mask)
    (points.logits.square().sum() + points.offsets.square().sum()).backward()
    optimizer.step()
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}
    assert changed <= set(names)
    backbone = {name for name in before if name.startswith("backbone.")}
    adapters = {name for name in backbone if ".adapter." in name}
    assert (kind == "none") == (not adapters)
    assert changed & backbone == {"head": set(), "adapters": adapters, "all": backbone}[tuning] & changed
    assert len(changed) > 0.9 * len(names)  # a key bias has no effect and may be unchanged
