"""ActionFormer compared with all intermediate values of a public implementation."""

from typing import Any

import pytest
import torch

from model.architecture import HeadConfig
from model.head import ActionFormer, ConvAttention, Projection
from model.segments import point_grid
from model.sinusoids import sinusoid_table


@pytest.mark.shared("reference/actionformer.pt")
@torch.inference_mode()
def test_intermediate_values_equal_published_code(reference: dict[str, Any], detector: ActionFormer) -> None:
    levels, masks = detector.projection(reference["inputs"], reference["masks"])
    for ours, theirs in zip(levels, reference["proj_feats"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for our_mask, their_mask in zip(masks, reference["proj_masks"], strict=True):
        assert torch.equal(our_mask, their_mask)
    necked = detector.neck(levels)
    for ours, theirs in zip(necked, reference["neck_feats"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    points = detector.rpn_head(necked, masks)
    positions, strides = (torch.from_numpy(part) for part in point_grid(192, (1, 2, 4, 8, 16, 32)))
    segments = positions[:, None] + points.offsets * strides[:, None] * torch.tensor([-1, 1])
    valid = torch.cat(masks, dim=1)
    for row in range(2):
        torch.testing.assert_close(
            points.logits[row].sigmoid()[valid[row]], reference["scores"][row], atol=1e-6, rtol=0
        )
        torch.testing.assert_close(segments[row][valid[row]].float(), reference["proposals"][row], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_padding_length_does_not_change_output() -> None:
    torch.manual_seed(0)
    config = HeadConfig(channels=16, heads=2, stem_blocks=1, branch_blocks=3, path_dropout=0)
    detector = ActionFormer(config, features=8, actions=5).eval()
    features, mask = torch.randn(1, 8, 64), torch.arange(64)[None] < 40
    features *= mask[:, None]
    longer, shorter = detector(features, mask), detector(features[:, :, :48], mask[:, :48])
    assert longer.logits.shape == (1, 64 + 32 + 16 + 8, 5)
    valid = [torch.cat([m[:, ::stride] for stride in config.strides], dim=1) for m in (mask, mask[:, :48])]
    for long, short in zip(longer, shorter, strict=True):
        torch.testing.assert_close(long[valid[0]], short[valid[1]])


def test_residual_scale_and_path_dropout_take_effect() -> None:
    torch.manual_seed(0)
    features, mask = torch.randn(1, 8, 32), torch.ones(1, 32, dtype=torch.bool)
    config = HeadConfig(channels=16, heads=2, stem_blocks=1, branch_blocks=1, path_dropout=0.5)
    detector = ActionFormer(config, features=8, actions=5).eval()
    before = detector(features, mask).logits
    for name, parameter in detector.named_parameters():
        if "drop_path" in name:
            assert parameter.shape == (1, 16, 1)
            torch.nn.init.ones_(parameter)
    assert not torch.allclose(before, detector(features, mask).logits)
    training = detector.train()
    torch.manual_seed(1)
    first = training(features, mask).logits
    torch.manual_seed(2)
    assert not torch.allclose(first, training(features, mask).logits)


@torch.inference_mode()
def test_windowed_attention_equals_its_equation() -> None:
    """Each step attends to two steps on either side within the mask."""
    torch.manual_seed(0)
    attention = ConvAttention(8, heads=2, stride=1, window=5)
    x, mask = torch.randn(1, 8, 12), torch.arange(12)[None] < 9
    actual = attention(x, mask)
    q, k, v = (attention._project(name, x, mask)[0] for name in ("query", "key", "value"))  # (heads, steps, 4)
    mixed = torch.zeros(2, 12, 4)
    for step in range(9):
        near = [other for other in range(step - 2, step + 3) if 0 <= other < 9]
        for head in range(2):
            weights = (q[head, step] @ k[head, near].T / 2).softmax(dim=0)
            mixed[head, step] = weights @ v[head, near]
    expected = attention.proj(mixed.permute(0, 2, 1).reshape(1, 8, 12))
    torch.testing.assert_close(actual[:, :, :9], expected[:, :, :9])
    assert (actual[:, :, 9:] == 0).all()
    whole = ConvAttention(8, heads=2, stride=1, window=0)
    whole.load_state_dict(attention.state_dict())
    assert not torch.allclose(whole(x, mask), actual)
    wide = ConvAttention(8, heads=2, stride=1, window=99)
    wide.load_state_dict(attention.state_dict())
    torch.testing.assert_close(wide(x, mask), whole(x, mask))


def test_each_level_can_have_its_own_window() -> None:
    config = HeadConfig(channels=16, heads=2, stem_blocks=1, branch_blocks=2, attention_window=(7, 5, -1))
    projection = Projection(config, 8)
    blocks = [*projection.stem, *projection.branch]
    assert [block.attn.window for block in blocks] == [7, 5, -1]
    with pytest.raises(ValueError, match="has 2 values for 6 levels"):
        HeadConfig(attention_window=(7, 5))


@torch.inference_mode()
def test_positions_are_masked_and_stretched_if_too_few() -> None:
    torch.manual_seed(0)
    config = HeadConfig(channels=16, heads=2, stem_blocks=0, branch_blocks=0, path_dropout=0, position_steps=20)
    projection = Projection(config, 8)
    plain = Projection(config.model_copy(update={"position_steps": 0}), 8)
    plain.load_state_dict(projection.state_dict())
    table = sinusoid_table(20, 16).T / 4
    for steps, expected in ((12, table[:, :12]), (20, table), (40, None)):
        x, mask = torch.randn(1, 8, steps), torch.arange(steps)[None] < steps - 2
        added = (projection(x, mask)[0][0] - plain(x, mask)[0][0])[0]
        if expected is None:
            expected = torch.nn.functional.interpolate(table[None], size=40, mode="linear", align_corners=False)[0]
        torch.testing.assert_close(added[:, :-2], expected[:, :-2], atol=1e-5, rtol=0)
        assert (added[:, -2:] == 0).all()
