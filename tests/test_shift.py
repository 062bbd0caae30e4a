"""The convolutional backbone: what the temporal shift moves, where it ends, and how places are pooled."""

import pytest
import torch

from model.architecture import ShiftConfig
from model.shift import AttentionPool, ShiftBackbone, TemporalBlock, shift

SMALL = ShiftConfig(
    kind="shift", widths=(8, 8, 16), blocks=(1, 1), queries=2, query_width=4, position_grid=3, embed_dim=12,
    dilations=(),
)  # fmt: skip


def test_shift_takes_channels_of_the_steps_beside() -> None:
    """Two windows of three steps, four channels of one place: the tens are the step, the ones the channel."""
    first = torch.tensor([[10.0, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]])
    x = torch.cat([first, first + 100]).reshape(6, 4, 1, 1)
    expected = torch.tensor([[20.0, 0, 12, 13], [30, 11, 22, 23], [0, 21, 32, 33]])
    other = torch.tensor([[120.0, 0, 112, 113], [130, 111, 122, 123], [0, 121, 132, 133]])
    found = shift(x, batch=2, channels=1)
    assert torch.equal(found, torch.cat([expected, other]).reshape(6, 4, 1, 1))
    assert torch.equal(shift(x, batch=2, channels=0), x)


@torch.inference_mode()
def test_steps_see_their_neighbours_across_clips_but_never_another_window() -> None:
    torch.manual_seed(0)
    backbone = ShiftBackbone(SMALL).eval()
    clips = torch.randn(2, 3, 3, 4, 16, 24)
    before = backbone(clips)  # (2, 12, 6)
    clips[0, 1, :, 0] += 1  # a frame of step 2, the first one of the second clip
    moved = (backbone(clips) != before).any(dim=1)
    # Two blocks pass it on by two steps either way, over the border of the clip.
    assert moved.tolist() == [[True] * 5 + [False], [False] * 6]


@torch.inference_mode()
@pytest.mark.parametrize(("dilation", "seen"), [(1, [3, 4, 5]), (3, [1, 4, 7])])
def test_temporal_blocks_reach_as_far_as_they_are_dilated(dilation: int, seen: list[int]) -> None:
    torch.manual_seed(0)
    block = TemporalBlock(6, dilation)
    x = torch.randn(2, 9, 6)
    before = block(x)
    x[0, 4, 0] += 1
    moved = (block(x) - before).abs().sum(dim=-1) > 1e-6
    assert moved[0].nonzero().flatten().tolist() == seen
    assert not moved[1].any()


@torch.inference_mode()
def test_pooling_as_written_out() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(5, SMALL)
    torch.nn.init.normal_(pool.positions)
    x = torch.randn(2, 5, 3, 3)  # the grid of the positions, which are not resized
    for row in range(2):
        places = [x[row, :, y, z] + pool.positions[0, :, y, z] for y in range(3) for z in range(3)]
        pooled = []
        for query in pool.score.weight:
            weights = torch.stack([place @ query for place in places]).exp()
            values = torch.stack([pool.value.weight @ place + pool.value.bias for place in places])
            pooled.append((weights[:, None] * values).sum(dim=0) / weights.sum())
        expected = pool.out.weight @ torch.cat(pooled) + pool.out.bias
        torch.testing.assert_close(pool(x)[row], expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_one_place_is_not_averaged_away() -> None:
    """An attention that has learned to look for a channel reads it off, however large the picture is."""
    pool = AttentionPool(2, SMALL)
    for parameter in pool.parameters():
        torch.nn.init.zeros_(parameter)
    pool.score.weight[0, 0] = 30.0
    pool.value.weight[0] = torch.tensor([0.0, 1.0])
    pool.out.weight[0, 0] = 1.0
    picture = torch.zeros(1, 2, 10, 10)
    picture[0, :, 1, 7] = torch.tensor([1.0, 5.0])  # what it looks for, and what it finds there
    assert pool(picture)[0, 0].item() == pytest.approx(5.0, abs=1e-3)


def test_weights_of_the_usual_size() -> None:
    backbone = ShiftBackbone(ShiftConfig(kind="shift", inputs="rgb_differences")).eval()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == sum(
        (
            25 * 10 * 24 + 48,  # stem: 5 channels of 2 frames
            9 * 24 * 48 + 9 * 48 * 48 + 24 * 48 + 6 * 48 + 2 * 9 * 48**2 + 4 * 48,
            9 * 48 * 96 + 9 * 96 * 96 + 48 * 96 + 6 * 96 + 2 * 9 * 96**2 + 4 * 96,
            9 * 96 * 160 + 9 * 160 * 160 + 96 * 160 + 6 * 160 + 2 * 9 * 160**2 + 4 * 160,
            49 * 160 + 6 * 160 + 64 * 160 + 64 + 6 * 64 * 192 + 192,  # pooling
            4 * (2 * 192 + 4 * 192 + 192 * 384 + 384 + 384 * 192 + 192) + 2 * 192,  # temporal blocks
        )
    )
    with torch.inference_mode():
        for size in (112, 128, 160):
            assert backbone(torch.zeros(1, 1, 3, 16, size, size)).shape == (1, 192, 8)
