"""`python -m tests.reference_differences` prints the largest difference from public code for each reference case."""

import json
import statistics
import timeit
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.adapters import Grid, StandardAdapter, TemporalInformativeAdapter
from model.architecture import AdapterConfig, HeadConfig
from model.bundle import PostprocessingConfig
from model.head import ActionFormer
from model.nms import suppress
from model.segments import Proposals
from tests.conftest import SHARED
from tests.test_nms import make_config
from training.evaluation.metrics import evaluate
from training.instances import Instances
from training.losses import DetectionLoss, Targets, assign, make_grid
from training.tables import read_annotations, read_labels, read_predictions

Rows = list[tuple[str, float]]
STRIDES = (1, 2, 4, 8, 16, 32)


def adapters() -> Rows:
    cases = torch.load(SHARED / "reference/adapters.pt", weights_only=True)
    rows = []
    for name, kind in (("plain", StandardAdapter), ("tia", TemporalInformativeAdapter)):
        case, adapter = cases[name], kind(384, AdapterConfig())
        adapter.load_state_dict(case["state_dict"])
        actual = adapter(case["x"], Grid(case["temporal_size"] // 8, 8, case["h"], case["w"]))
        rows.append((f"adapter {name}: output", max_difference(actual, case["y"])))
    return rows


def actionformer() -> Rows:
    reference: dict[str, Any] = torch.load(SHARED / "reference/actionformer.pt", weights_only=True)
    config = HeadConfig(channels=32, heads=4, embed_convs=3, stem_blocks=0, branch_blocks=5, path_dropout=0)
    detector = ActionFormer(config, features=384, actions=52).eval()
    detector.load_state_dict({k: v for k, v in reference["state_dict"].items() if k != "rpn_head.loss_normalizer"})
    levels, masks = detector.projection(reference["inputs"], reference["masks"])
    necked = detector.neck(levels)
    points = detector.rpn_head(necked, masks)
    grid, valid = make_grid(192, STRIDES), torch.cat(masks, dim=1)
    segments = grid.positions[:, None] + points.offsets * grid.strides[:, None] * torch.tensor([-1.0, 1.0])
    pairs = zip(reference["gt_segments"], reference["gt_labels"], strict=True)
    targets = Targets(*map(torch.stack, zip(*(assign(grid, *pair, 52) for pair in pairs), strict=True)))
    positive = targets.classes.sum(dim=-1) > 0
    rows = [
        ("ActionFormer: features", max(map(max_difference, levels, reference["proj_feats"]))),
        ("ActionFormer: necked features", max(map(max_difference, necked, reference["neck_feats"]))),
        ("ActionFormer: points", max_difference(torch.stack(list(grid), dim=1), reference["points"])),
        (
            "ActionFormer: proposals, steps",
            max(max_difference(segments[row][valid[row]], reference["proposals"][row]) for row in (0, 1)),
        ),
        (
            "ActionFormer: scores",
            max(max_difference(points.logits[row].sigmoid()[valid[row]], reference["scores"][row]) for row in (0, 1)),
        ),
        ("targets: classes", max_difference(targets.classes, reference["target_cls"])),
        ("targets: offsets", max_difference(targets.offsets[positive], reference["target_reg"][positive])),
    ]
    for mode, loss in (("eval", DetectionLoss(grid).eval()), ("train", DetectionLoss(grid).train())):
        losses = loss(points, valid, targets)
        for ours, theirs in ((losses.classes, "cls_loss"), (losses.boundaries, "reg_loss")):
            expected = reference[f"losses_{mode}"][theirs]
            rows.append((f"loss in {mode}: {theirs}, relative", abs(ours.item() / expected - 1)))
    losses.total.backward()
    norms = {
        name: float(weights.grad.norm()) for name, weights in detector.named_parameters() if weights.grad is not None
    }
    relative = [abs(norms[name] / norm - 1) for name, norm in reference["grad_norms"].items() if norm > 1e-8]
    return [*rows, (f"gradient norms of {len(relative)} tensors, relative", max(relative))]


def nms() -> Rows:
    rows = []
    with np.load(SHARED / "reference/nms.npz") as values:
        for name, config in json.loads((SHARED / "reference/nms.json").read_text())["configs"].items():
            ours = make_config(config)
            worst = 0.0
            for case in range(10):
                given = Proposals(*(values[f"in{case}_{part}"] for part in ("segs", "scores", "labels")))
                theirs = -np.sort(-values[f"out{case}_{name}_scores"])
                worst = max(worst, float(np.abs(suppress(given, ours).scores - theirs).max()))
            rows.append((f"NMS {name}, 10 inputs: scores", worst))
    return rows


def mean_average_precision() -> Rows:
    taxonomy = read_labels(SHARED / "data/labels.json")
    truth = read_annotations(SHARED / "data/mma52/val.csv", taxonomy).instances
    durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
    files = {"prediction_val": "data/mma52/prediction_val.csv", "synth_a_unique": "reference/map_predictions.csv"}
    listed = json.loads((SHARED / "reference/map_videos.json").read_text())
    rows = []
    for case, expected in json.loads((SHARED / "reference/map.json").read_text()).items():
        file, which, level = case.split("|")
        sides = [truth, read_predictions(SHARED / files[file], taxonomy, durations).instances]
        if which == "restricted":
            chosen = listed.get(file) or sorted({sides[1].videos[index] for index in sides[1].video})
            sides = [side.select_videos(chosen) for side in sides]
        if level == "body":
            sides = [side.to_body_level(taxonomy) for side in sides]
        report = evaluate(*sides, len(taxonomy.actions if level == "action" else taxonomy.bodies))
        difference = np.abs(report.mean_precision - expected["opentad"]["mAP"]).max()
        rows.append((f"mAP {case}", float(difference)))
    return rows


def times() -> Rows:
    """Time NMS of 2,000 candidates over 52 actions, and evaluation of 300,000 predictions: median of five, seconds."""
    generator = np.random.default_rng(0)
    start = generator.uniform(0, 180, 2000)
    segments = np.stack([start, start + generator.uniform(1, 20, 2000)], axis=1).astype(np.float32)
    scores = generator.uniform(0.001, 1, 2000).astype(np.float32)
    candidates = Proposals(segments, scores, generator.integers(0, 52, 2000))
    taxonomy = read_labels(SHARED / "data/labels.json")
    truth = read_annotations(SHARED / "data/mma52/val.csv", taxonomy).instances
    video = generator.integers(0, len(truth.videos), 300_000)
    start = generator.uniform(0, 0.9, len(video)) * truth.durations[video]
    span = np.stack([start, start + generator.uniform(0.3, 6, len(video))], axis=1)
    labels, scores = generator.integers(0, 52, len(video)), generator.uniform(0, 1, len(video))
    predictions = Instances(truth.videos, truth.durations, video, span, labels, scores)

    def both_levels() -> None:
        evaluate(truth, predictions, 52)
        evaluate(truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), 7)

    functions = {
        "soft-NMS, 2,000 candidates, 52 actions": lambda: suppress(candidates, PostprocessingConfig(proposals=2000)),
        "evaluation of val, 300,000 predictions": both_levels,
    }
    return [
        (name, statistics.median(timeit.repeat(function, number=1, repeat=5))) for name, function in functions.items()
    ]


def max_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest absolute difference."""
    return float((ours.detach().double() - theirs.double()).abs().max())


def main() -> None:
    table = Table("reference case", "largest difference")
    for part in (adapters, actionformer, nms, mean_average_precision):
        for name, difference in part():
            table.add_row(name, f"{difference:.1e}")
    Console(width=100).print(table)
    table = Table("time on this machine", "median s")
    for name, seconds in times():
        table.add_row(name, f"{seconds:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
