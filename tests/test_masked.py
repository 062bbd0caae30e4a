"""Masked autoencoding: what is hidden is not seen, and it is learned to be told."""

import pytest
import torch

from model.architecture import AdapterConfig, BackboneConfig
from model.backbone import Backbone
from training.masked import Decoder, _cubes, masked_loss
from training.recipe import RecipeError, load_recipe

CONFIG = BackboneConfig(embed_dim=32, depth=1, heads=2, patch_size=8, inputs="rgb_differences")


def make(config: BackboneConfig) -> tuple[Backbone, Decoder]:
    torch.manual_seed(0)
    return Backbone(config, AdapterConfig(kind="none"), 4, 32, 32), Decoder(config)


def run(backbone: Backbone, decoder: Decoder, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder told, and the order of places it was given."""
    seen = []
    handle = decoder.register_forward_hook(lambda _, given, told: seen.append((told.detach(), given[1])))
    torch.manual_seed(1)
    masked_loss(backbone, decoder, clips)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("stem", ["linear", "convolutions"])
def test_what_is_hidden_is_not_seen(stem):
    backbone, decoder = make(CONFIG.model_copy(update={"stem": stem}))
    clips = torch.randn(1, 1, 3, 4, 32, 32)
    told, order = run(backbone, decoder, clips)
    for place, changes in ((order[0, -1], False), (order[0, 0], True)):  # hidden ones come last
        row, column = divmod(int(place) % 16, 4)
        other = clips.clone()
        other[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1.0
        assert torch.equal(run(backbone, decoder, other)[0], told) != changes


def test_three_quarters_are_hidden_the_same_at_all_times():
    backbone, decoder = make(CONFIG)
    _, order = run(backbone, decoder, torch.randn(2, 1, 3, 4, 32, 32))
    for places in order:
        assert sorted(places.tolist()) == list(range(32))
        visible = places[: 32 // 4]
        assert sorted((visible[:4] + 16).tolist()) == sorted(visible[4:].tolist())


def test_pixels_of_a_token_are_those_its_patch_embedding_sees():
    backbone, _ = make(CONFIG.model_copy(update={"inputs": "rgb"}))
    pictures = torch.randn(2, 3, 4, 32, 32)
    weight, bias = (
        backbone.patch_embed.weight,
        backbone.patch_embed.bias,
    )  # (dim, colours, time, rows, columns)
    flat = weight.permute(0, 2, 3, 4, 1).flatten(1)
    expected = _cubes(pictures, backbone.config) @ flat.T + bias
    found = backbone.patch_embed(pictures).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_learns_to_tell():
    backbone, decoder = make(CONFIG)
    waves = torch.linspace(0, 6, 32).sin()
    clips = (waves[:, None] * waves).expand(2, 1, 3, 4, 32, 32) + 0.01 * torch.randn(2, 1, 3, 4, 32, 32)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *decoder.parameters()], lr=3e-3)
    losses = []
    for step in range(150):
        torch.manual_seed(step)
        loss = masked_loss(backbone, decoder, clips)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9
    assert sum(losses[-10:]) / 10 < 0.5


def test_a_backbone_with_adapters_is_refused():
    with pytest.raises(RecipeError, match=r"adapter\.kind none"):
        load_recipe("smoke", ["stages.0.objective=masked"])
