"""Targets and losses compared with a public implementation: values, gradients and moving average."""

from typing import Any

import pytest
import torch

from model.head import ActionFormer, Points
from training.losses import DetectionLoss, Targets, assign, diou_loss, make_grid, sigmoid_focal_loss

GRID = make_grid(192, (1, 2, 4, 8, 16, 32))


@pytest.fixture
def targets(reference: dict[str, Any]) -> Targets:
    pairs = zip(reference["gt_segments"], reference["gt_labels"], strict=True)
    return Targets(*map(torch.stack, zip(*(assign(GRID, *pair, actions=52) for pair in pairs), strict=True)))


@pytest.fixture
def points_and_mask(reference: dict[str, Any], detector: ActionFormer) -> tuple[Points, torch.Tensor]:
    valid = torch.cat([reference["masks"][:, ::stride] for stride in (1, 2, 4, 8, 16, 32)], dim=1)
    detector.zero_grad()
    return detector(reference["inputs"], reference["masks"]), valid


def test_grid_equals_published_ranges_and_strides(reference: dict[str, Any]) -> None:
    torch.testing.assert_close(torch.stack(list(GRID), dim=1), reference["points"], atol=0, rtol=0)


def test_targets_equal_published_code(reference: dict[str, Any], targets: Targets) -> None:
    torch.testing.assert_close(targets.classes, reference["target_cls"], atol=1e-4, rtol=0)
    positive = targets.classes.sum(dim=-1) > 0
    torch.testing.assert_close(targets.offsets[positive], reference["target_reg"][positive], atol=1e-4, rtol=0)
    assert positive.sum() > 20


def test_losses_in_evaluation_equal_published_code(
    reference: dict[str, Any], points_and_mask: tuple[Points, torch.Tensor], targets: Targets
) -> None:
    losses = DetectionLoss(GRID).eval()(*points_and_mask, targets)
    expected = reference["losses_eval"]
    assert losses.classes.item() == pytest.approx(expected["cls_loss"], rel=1e-4)
    assert losses.boundaries.item() == pytest.approx(expected["reg_loss"], rel=1e-4)
    assert losses.total.item() == pytest.approx(expected["cost"], rel=1e-4)


def test_losses_and_gradients_in_training_equal_published_code(
    reference: dict[str, Any], detector: ActionFormer, points_and_mask: tuple[Points, torch.Tensor], targets: Targets
) -> None:
    loss = DetectionLoss(GRID).train()
    losses = loss(*points_and_mask, targets)
    expected = reference["losses_train"]
    assert losses.classes.item() == pytest.approx(expected["cls_loss"], rel=1e-4)
    assert losses.boundaries.item() == pytest.approx(expected["reg_loss"], rel=1e-4)
    assert loss.normalizer.item() == pytest.approx(reference["loss_normalizer_after"], rel=1e-6)
    losses.total.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in detector.named_parameters()}
    assert norms.keys() == reference["grad_norms"].keys()
    for name, norm in reference["grad_norms"].items():
        # A key bias shifts all inputs of a softmax alike: its gradient is rounding noise.
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-8), name


def test_losses_without_actions_equal_published_code(
    reference: dict[str, Any], points_and_mask: tuple[Points, torch.Tensor], targets: Targets
) -> None:
    empty = assign(GRID, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), actions=52)
    with_empty = Targets(*(torch.stack([ours[0], theirs]) for ours, theirs in zip(targets, empty, strict=True)))
    losses = DetectionLoss(GRID).train()(*points_and_mask, with_empty)
    expected = reference["losses_train_second_video_empty"]
    assert losses.classes.item() == pytest.approx(expected["cls_loss"], rel=1e-4)
    assert losses.boundaries.item() == pytest.approx(expected["reg_loss"], rel=1e-4)


def test_batch_without_actions_has_zero_boundary_gradient() -> None:
    points = Points(torch.zeros(1, 378, 52, requires_grad=True), torch.ones(1, 378, 2, requires_grad=True))
    empty = assign(GRID, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), actions=52)
    batch = Targets(empty.classes[None], empty.offsets[None])
    losses = DetectionLoss(GRID)(points, torch.ones(1, 378, dtype=torch.bool), batch)
    losses.total.backward()
    assert losses.boundaries.item() == 0
    assert points.offsets.grad is not None
    assert not points.offsets.grad.any()


def test_diou_of_known_pairs() -> None:
    predicted = torch.tensor([[0.0, 2], [0, 2], [0, 2], [1, 1]])
    truth = torch.tensor([[0.0, 2], [1, 3], [4, 6], [1, 1]])
    # equal; tIoU 1/3, centres 1 apart in 3; tIoU 0, centres 4 apart in 6; both empty
    torch.testing.assert_close(diou_loss(predicted, truth), torch.tensor([0, 1 - 1 / 3 + 1 / 9, 1 + 4 / 9, 1.0]))


def test_focal_loss_equals_its_equation() -> None:
    logits = torch.tensor([0.0, 2.0])
    expected = [0.25 * 0.5**2 * torch.tensor(2.0).log(), 0.75 * torch.tensor(2.0).sigmoid() ** 2 * F_softplus(2.0)]
    torch.testing.assert_close(sigmoid_focal_loss(logits, torch.tensor([1.0, 0.0])), torch.stack(expected))


def F_softplus(x: float) -> torch.Tensor:  # noqa: N802
    return torch.nn.functional.softplus(torch.tensor(x))


def test_point_is_assigned_shortest_action_and_near_duplicates() -> None:
    segments = torch.tensor([[10.0, 14], [10, 14.0005], [8, 40]])
    targets = assign(GRID, segments, torch.tensor([0, 1, 2]), actions=3)
    assert targets.classes[12].tolist() == [1, 1, 0]
    assert targets.offsets[12].tolist() == [2, 2]
    assert targets.classes[192 + 96 + 48 + 3].tolist() == [0, 0, 1]  # level 3, stride 8, step 24
