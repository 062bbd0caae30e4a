"""The transformer: position table, sizes, and independence of clips."""

import math

import pytest
import torch

from model.architecture import SIZES, AdapterConfig, BackboneConfig
from model.backbone import Attention, Backbone, position_table
from model.sinusoids import sinusoid_table

SMALL = BackboneConfig(embed_dim=32, depth=2, heads=4, position_grid=4)


def test_sinusoid_table_equals_definition() -> None:
    table = sinusoid_table(50, 8)
    for position, channel in ((0, 0), (7, 2), (49, 5)):
        angle = position / 10000 ** (2 * (channel // 2) / 8)
        expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
        assert table[position, channel].item() == pytest.approx(expected, abs=1e-6)


def test_position_table_is_resized_in_space_only() -> None:
    config = SIZES["small"]
    whole = position_table(config, 8, 14, 14)
    assert torch.equal(whole, sinusoid_table(8 * 14 * 14, 384))
    resized = position_table(config, 8, 10, 10).reshape(8, 10, 10, 384)
    # Each time step is resized separately, which differs from a table computed for the smaller grid.
    alone = torch.nn.functional.interpolate(
        whole.reshape(8, 14, 14, 384)[3:4].permute(0, 3, 1, 2), size=(10, 10), mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(resized[3], alone[0].permute(1, 2, 0))
    assert (resized.reshape(-1, 384) - sinusoid_table(800, 384)).abs().max() > 0.5


def test_attention_equals_its_equation() -> None:
    torch.manual_seed(0)
    attention = Attention(12, heads=3)
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    x = torch.randn(2, 5, 12)
    q, k, v = (x @ part.T for part in attention.qkv.weight.chunk(3))
    q, v = q + attention.q_bias, v + attention.v_bias
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(dim=-1)
        heads.append(weights @ v[..., part])
    expected = torch.cat(heads, dim=-1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def compute_features(backbone: Backbone, clip: torch.Tensor) -> torch.Tensor:
    """Compute the features (dim, times) of a clip (3, frames, height, width) patch by patch and layer by layer."""

    def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * layer.weight + layer.bias

    tokens = []
    for t in range(0, clip.shape[1], 2):
        for y in range(0, clip.shape[2], 16):
            for x in range(0, clip.shape[3], 16):
                patch = clip[:, t : t + 2, y : y + 16, x : x + 16]
                product = backbone.patch_embed.weight.flatten(1) @ patch.flatten()
                tokens.append(product + backbone.patch_embed.bias)
    z = torch.stack(tokens)[None] + backbone.positions
    for block in backbone.blocks:
        z = z + block.attn(norm(z, block.norm1))
        inner = norm(z, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        z = z + inner @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return norm(z, backbone.norm).reshape(backbone.time, -1, z.shape[-1]).mean(dim=1).T


@torch.inference_mode()
def test_backbone_equals_its_equations() -> None:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"final_norm": True})
    backbone = Backbone(config, AdapterConfig(kind="none"), clip_frames=4, height=32, width=48)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    clips = torch.randn(1, 1, 3, 4, 32, 48)
    torch.testing.assert_close(backbone(clips)[0], compute_features(backbone, clips[0, 0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "parameters"),  # counted by hand: patch embedding, then 12 blocks
    [
        ("tiny", 1536 * 192 + 192 + 12 * (12 * 192**2 + 12 * 192)),
        ("small", 1536 * 384 + 384 + 12 * (12 * 384**2 + 12 * 384)),
        ("base", 86_225_664),  # 86 M, as VideoMAE's authors give it
        ("large", 1536 * 1024 + 1024 + 24 * (12 * 1024**2 + 12 * 1024)),
        ("huge", 1536 * 1280 + 1280 + 32 * (12 * 1280**2 + 12 * 1280)),
    ],
)
def test_backbone_sizes_have_expected_weight_counts(size: str, parameters: int) -> None:
    with torch.device("meta"):
        backbone = Backbone(SIZES[size], AdapterConfig(kind="none"), 16, 224, 224)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_backbone_sizes_have_expected_head_width() -> None:
    assert list(SIZES) == ["tiny", "small", "base", "large", "huge"]
    assert {name: size.embed_dim // size.heads for name, size in SIZES.items()} == {
        "tiny": 64, "small": 64, "base": 64, "large": 64, "huge": 80,
    }  # fmt: skip


@torch.inference_mode()
def test_features_are_in_time_order_and_clips_are_independent() -> None:
    torch.manual_seed(0)
    backbone = Backbone(SMALL, AdapterConfig(kind="none"), clip_frames=4, height=32, width=48)
    clips = torch.randn(2, 3, 3, 4, 32, 48)
    features = backbone(clips)
    assert features.shape == (2, 32, 3 * 2)
    alone = backbone(clips[1:, 2:])
    torch.testing.assert_close(features[1:, :, 4:], alone, atol=1e-5, rtol=1e-5)


def test_width_must_be_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="no multiple of heads"):
        BackboneConfig(embed_dim=10, depth=1, heads=3)
