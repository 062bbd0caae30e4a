"""ActionFormer, held against a public implementation's every intermediate value."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.architecture import HeadConfig
from model.head import ActionFormer
from model.segments import point_grid


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(shared / "reference/actionformer.pt", weights_only=True)
    return values


@pytest.fixture(scope="module")
def detector(reference: dict[str, Any]) -> ActionFormer:
    config = HeadConfig(channels=32, heads=4, embed_convs=3, stem_blocks=0, branch_blocks=5, path_dropout=0)
    detector = ActionFormer(config, features=384, actions=52).eval()
    weights = {
        name: value for name, value in reference["state_dict"].items() if name != "rpn_head.loss_normalizer"
    }
    detector.load_state_dict(weights)  # names and shapes as published
    return detector


@pytest.mark.shared("reference/actionformer.pt")
@torch.inference_mode()
def test_every_intermediate_as_published_code(reference: dict[str, Any], detector: ActionFormer) -> None:
    levels, masks = detector.projection(reference["inputs"], reference["masks"])
    for ours, theirs in zip(levels, reference["proj_feats"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for mine, other in zip(masks, reference["proj_masks"], strict=True):
        assert torch.equal(mine, other)
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
        torch.testing.assert_close(
            segments[row][valid[row]].float(), reference["proposals"][row], atol=1e-4, rtol=0
        )


@torch.inference_mode()
def test_how_far_a_window_is_padded_changes_nothing() -> None:
    torch.manual_seed(0)
    config = HeadConfig(channels=16, heads=2, stem_blocks=1, branch_blocks=3, path_dropout=0)
    detector = ActionFormer(config, features=8, actions=5).eval()
    features, mask = torch.randn(1, 8, 64), torch.arange(64)[None] < 40
    features *= mask[:, None]
    longer, shorter = detector(features, mask), detector(features[:, :, :48], mask[:, :48])
    assert longer.logits.shape == (1, 64 + 32 + 16 + 8, 5)
    valid = [torch.cat([m[:, ::stride] for stride in config.strides], dim=1) for m in (mask, mask[:, :48])]
    for one, other in zip(longer, shorter, strict=True):
        torch.testing.assert_close(one[valid[0]], other[valid[1]])


def test_residual_scale_is_part_of_the_path() -> None:
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
