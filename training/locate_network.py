"""Network of the locator: architecture, training on stills, and export to ONNX."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arrays import Array
from model.bundle import LocatorConfig
from model.export import LOCATOR_HEADER, OPSET, strip_metadata
from training.locate_stills import LONGEST, Stills

SIZE = 128  # side of the square input in pixels
STRIDE = 8
CELLS = SIZE // STRIDE
_SIDE_SCALE = 0.3  # typical distance from the centre of a box to its side, as a fraction of the input
_SIGMA = 0.13  # standard deviation of the score target around the centre, as a fraction of the box
_MIN_BOX_TARGET = 0.6  # boxes are trained in cells whose score target is at least this


class LocatorNetwork(nn.Module):
    """Convolutional network with features at strides 8 and 16, merged at stride 8; 0.3 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.eighth = nn.Sequential(
            _convolution(3, 12, 2), _convolution(12, 24, 2), _convolution(24, 24), _convolution(24, 48, 2),
            _convolution(48, 48),
        )  # fmt: skip
        self.sixteenth = nn.Sequential(
            _convolution(48, 96, 2), _convolution(96, 96), _convolution(96, 96), nn.Conv2d(96, 64, 1)
        )
        self.across = nn.Conv2d(48, 64, 1)
        self.joint = nn.Sequential(nn.ReLU(), _convolution(64, 64))
        self.answer = nn.Conv2d(64, 5, 1)
        nn.init.constant_(self.answer.bias[:1], -4.0)  # type: ignore[index]
        middles = (torch.arange(CELLS) + 0.5) / CELLS
        grid = torch.stack([middles.expand(CELLS, -1), middles[:, None].expand(-1, CELLS)], dim=-1)
        self.register_buffer("grid", grid)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (B, CELLS, CELLS) and boxes (B, CELLS, CELLS, 4) of images (B, SIZE, SIZE, 3) uint8.

        Boxes are fractions of the input: left, top, right, bottom.
        """
        fine = self.eighth(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)
        coarse = F.interpolate(self.sixteenth(fine), size=(CELLS, CELLS), mode="nearest")
        answer = self.answer(self.joint(self.across(fine) + coarse)).permute(0, 2, 3, 1)
        sides = F.softplus(answer[..., 1:]) * _SIDE_SCALE
        grid = self.grid
        assert isinstance(grid, Tensor)
        return answer[..., 0], torch.cat([grid - sides[..., :2], grid + sides[..., 2:]], dim=-1)


class ExportedLocator(nn.Module):
    """The exported network, which returns scores instead of logits."""

    def __init__(self, network: LocatorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and boxes, see model/locator.py."""
        logits, boxes = self.network(pictures)
        return logits.sigmoid(), boxes


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def train(
    stills: Stills, epochs: int, seed: int, say: Callable[[str], object], batch: int = 32, rate: float = 3e-3
) -> LocatorNetwork:
    """Train a network on stills, with new augmentation in every epoch; `say` gets a line per epoch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = LocatorNetwork()
    network.train()
    steps = epochs * (len(stills) // batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for epoch in range(epochs):
        order, total = rng.permutation(len(stills)), 0.0
        for start in range(0, len(order) - batch + 1, batch):
            pictures, boxes = augment(stills, order[start : start + batch], rng)
            logits, predicted = network(pictures)
            loss = locator_loss(logits, predicted, boxes)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        say(f"epoch {epoch + 1} of {epochs}: loss {total / (len(order) // batch):.3f}")
    return network.eval()


def locator_loss(logits: Tensor, boxes: Tensor, truth: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of scores (CenterNet, equation 1) plus the GIoU loss of boxes.

    `truth` is (B, people, 4) in fractions of the input; NaN for absent people.
    """
    target, target_boxes = make_targets(truth)
    scores = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = target == 1
    positive = torch.log(scores) * (1 - scores) ** 2 * centre
    negative = torch.log(1 - scores) * scores**2 * (1 - target) ** 4 * ~centre
    count = centre.sum().clamp(min=1)
    near = target >= _MIN_BOX_TARGET
    distance = 1 - generalised_iou(boxes[near], target_boxes[near])
    return -(positive + negative).sum() / count + 2 * (distance * target[near]).sum() / target[near].sum().clamp(min=1)


def make_targets(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets for boxes (B, people, 4): scores (B, CELLS, CELLS), 1 at a centre, and each cell's nearest box."""
    middles = (truth[..., :2] + truth[..., 2:]) / 2 * CELLS  # (B, people, 2)
    sigma = ((truth[..., 2:] - truth[..., :2]) * _SIGMA * CELLS).clamp(min=0.5)
    cell = middles.floor().clamp(0, CELLS - 1)
    indices = torch.arange(CELLS)
    x = (indices - cell[..., :1]) / sigma[..., :1]  # (B, people, CELLS)
    y = (indices - cell[..., 1:]) / sigma[..., 1:]
    gaussians = torch.exp(-0.5 * (x[:, :, None] ** 2 + y[..., None] ** 2)).nan_to_num(0.0)
    scores, nearest = gaussians.max(dim=1)
    boxes = torch.gather(truth.nan_to_num(0.0), 1, nearest.flatten(1)[..., None].expand(-1, -1, 4)).view(
        *nearest.shape, 4
    )
    return scores, boxes


def generalised_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised IoU (n,) of boxes (n, 4) and (n, 4), between -1 and 1 (arXiv:1902.09630)."""

    def area(corners: Tensor) -> Tensor:
        return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(dim=1)

    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    joint = area(boxes) + area(others) - shared
    outer = torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2])
    hull = outer.prod(dim=1)
    return shared / joint.clamp(min=1e-6) - (hull - joint) / hull.clamp(min=1e-6)


def augment(stills: Stills, chosen: Array, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crop, scale, mirror and recolour stills; return images (B, SIZE, SIZE, 3) uint8 and boxes (B, people, 4)."""
    views = np.stack([_sample_view(area, rng) for area in stills.places[chosen]])
    boxes = stills.boxes[chosen].astype(np.float32)
    flipped = rng.random(len(chosen)) < 0.5
    pictures = _crop_views(torch.from_numpy(stills.pictures[chosen]), torch.from_numpy(views))
    pictures = torch.where(torch.from_numpy(flipped)[:, None, None, None], pictures.flip(3), pictures)
    pictures = _recolour(pictures, rng)
    return pictures.permute(0, 2, 3, 1), torch.from_numpy(_transform_boxes(boxes, views, flipped))


def _sample_view(area: Array, rng: np.random.Generator) -> Array:
    """Sample a crop: left, top, right, bottom. It is the whole image with probability 0.4."""
    low, high = area[:2], area[2:]
    if rng.random() < 0.4:
        return np.asarray(area, np.float32)
    size = (high - low) * rng.uniform(0.6, 1.0, 2)
    corner = low + rng.random(2) * (high - low - size)
    return np.concatenate([corner, corner + size]).astype(np.float32)


def _crop_views(squares: Tensor, views: Tensor) -> Tensor:
    """Crop views and letterbox them, (B, 3, SIZE, SIZE) float; the padding is -1."""
    middle = (views[:, :2] + views[:, 2:]) / 2
    sizes = views[:, 2:] - views[:, :2]
    longest = sizes.max(dim=1).values
    steps = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    x = middle[:, :1] + steps * longest[:, None]  # (B, SIZE), in pixels of the still
    y = middle[:, 1:] + steps * longest[:, None]
    grid = torch.stack([x[:, None].expand(-1, SIZE, -1), y[..., None].expand(-1, -1, SIZE)], -1)
    pictures = F.grid_sample(
        squares.permute(0, 3, 1, 2).float(), grid * 2 / LONGEST - 1, padding_mode="border", align_corners=False
    )
    inside = ((grid >= views[:, None, None, :2]) & (grid < views[:, None, None, 2:])).all(dim=-1)
    # Negative values mark the padding, which is not recoloured.
    return torch.where(inside[:, None], pictures, -1.0)


def _recolour(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    count = len(pictures)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *(shape or (1, 1, 1)))).astype(np.float32))

    black = pictures < 0
    tone = (pictures.clamp(0, 255) / 255) ** torch.exp(draw(-0.5, 0.5))
    tone = tone * draw(0.65, 1.3) * draw(0.85, 1.15, 3, 1, 1)
    grey = tone.mean(dim=1, keepdim=True)
    tone = grey + (tone - grey) * torch.where(draw(0, 1) < 0.15, torch.zeros(()), draw(0.5, 1.6))
    tone = tone + draw(-0.1, 0.1)
    soft = F.avg_pool2d(F.pad(tone, (1, 1, 1, 1), mode="replicate"), 3, 1)
    tone = torch.where(draw(0, 1) < 0.25, soft, tone)
    noise = torch.from_numpy(rng.standard_normal(tone.shape, np.float32))
    tone = tone + noise * draw(0, 1) ** 3 * 0.08
    return torch.where(black, 0.0, tone.clamp(0, 1) * 255).round().to(torch.uint8)


def _transform_boxes(boxes: Array, views: Array, flipped: Array) -> Array:
    """Convert boxes (B, people, 4) to fractions of the view; NaN for people of whom less than 0.3 is visible."""
    low, high = np.tile(views[:, None, :2], 2), np.tile(views[:, None, 2:], 2)
    visible = np.clip(boxes, low, high)
    sizes = views[:, 2:] - views[:, :2]
    longest = sizes.max(axis=1)[:, None, None]
    corner = (views[:, :2] + views[:, 2:])[:, None] / 2 - longest / 2
    placed = (visible - np.tile(corner, 2)) / longest
    mirrored = np.stack([1 - placed[..., 2], placed[..., 1], 1 - placed[..., 0], placed[..., 3]], -1)
    placed = np.where(flipped[:, None, None], mirrored, placed)
    shares = _area(visible) / np.maximum(_area(boxes), 1e-6)
    return np.where((shares >= 0.3)[..., None], placed, np.nan).astype(np.float32)


def _area(boxes: Array) -> Array:
    return np.asarray(np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1))


def save(network: LocatorNetwork, config: LocatorConfig, path: Path) -> None:
    """Export the network to ONNX, with any batch size and its configuration in the metadata."""
    pictures = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The exporter warns about its own internals.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            ExportedLocator(network).eval(), (pictures,), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["pictures"], output_names=["scores", "boxes"], dynamic_shapes=({0: "pictures"},),
        )  # fmt: skip
    assert program is not None
    model = strip_metadata(program.model_proto)
    onnx.helper.set_model_props(model, {LOCATOR_HEADER: config.model_dump_json()})
    onnx.save_model(model, path)
