"""Training loop. A resumed run gives the same result: examples depend only on seed, stage and their number."""

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.tensorboard import SummaryWriter

from model.network import Network
from model.pose import PoseBackbone
from model.pose_estimator import KeypointReader
from training.batches import explain_worker_errors, load_batches
from training.evaluation.early_stopping import BestWeights, ValidationLoss
from training.files import write_aside
from training.objectives import Batch, Teacher, TrainingModule
from training.recipe import Recipe, RecipeError, StageConfig, Tuning, load_recipe
from training.run import (
    BACKBONE,
    CHECKPOINT,
    FINDER,
    HISTORY,
    RECIPE,
    Examples,
    Run,
    TrainingError,
    start_finder,
    start_network,
)
from training.weights import WeightsError, save_backbone, start_backbone

_LOG_EVERY = 10
_WEIGHT_DECAY, _BETAS = 0.05, (0.9, 0.98)
_MAX_GRADIENT_NORM = 1.0


class Progress(NamedTuple):
    """A step of `steps` in a stage: its losses by name, windows per second, and the best weights so far."""

    stage: int
    step: int
    steps: int
    losses: dict[str, float]
    rate: float
    best: BestWeights | None = None


OnProgress = Callable[[Progress], None]


def train(
    run: Run, on_progress: OnProgress, *, resume: bool = False, accelerator: str = "auto", devices: int = 1
) -> Network:
    """Train all stages and return the network.

    `resume` continues from the checkpoint in the run's folder. `accelerator` and `devices` are Lightning Fabric's;
    under torchrun every process calls this function. Raises TrainingError.
    """
    # Each objective leaves some outputs unused.
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
    fabric.launch()
    torch.manual_seed(run.recipe.seed)
    network = Network(run.manifest)
    _check_keypoints(run, network)
    _load_pretrained(network, run.recipe)
    if run.recipe.activation_checkpointing:
        recompute_blocks(network)
    loop = _Loop(fabric, run, network, on_progress)
    if resume:
        loop.resume()
    elif fabric.is_global_zero:
        run.out.mkdir(parents=True, exist_ok=True)
        (run.out / RECIPE).write_text(run.recipe.to_yaml(), encoding="utf-8")
        (run.out / HISTORY).unlink(missing_ok=True)
        (run.out / CHECKPOINT).unlink(missing_ok=True)
    with explain_worker_errors():
        loop.run_stages()
    trained = Network(run.manifest)
    trained.load_state_dict(loop.final_weights())
    return trained.eval()


def find_checkpoint(out: Path) -> Path:
    """Return the checkpoint of a run. Raises TrainingError if there is none."""
    path = out / CHECKPOINT
    if not path.exists():
        raise TrainingError(f"{out} has no {CHECKPOINT} to go on from: start without --resume")
    return path


def is_first_process() -> bool:
    """Return whether this process has rank 0, which prints and writes files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def resolve_tuning(network: Network, tuning: Tuning) -> Tuning:
    """Resolve auto: adapters if the network has any, else reader if it has a pose estimator, else all."""
    if tuning != "auto":
        return tuning
    names = [name for name, _ in network.named_parameters()]
    if any(".adapter." in name for name in names):
        return "adapters"
    return "reader" if any(name.startswith(FINDER) for name in names) else "all"


def set_trainable(network: Network, tuning: Tuning) -> list[str]:
    """Set requires_grad of all parameters; return the names of the trainable ones.

    head trains on frozen features, adapters is the paper's method, reader freezes the pose estimator only, all is full
    fine-tuning, auto see resolve_tuning.
    """
    tuning = resolve_tuning(network, tuning)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_is_trainable(name, tuning))
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _is_trainable(name: str, tuning: Tuning) -> bool:
    if tuning == "all" or not name.startswith("backbone."):
        return True
    if tuning == "reader":
        return not name.startswith(FINDER)
    return tuning == "adapters" and ".adapter." in name


def recompute_blocks(network: Network) -> None:
    """Enable activation checkpointing of the backbone's blocks, which saves memory."""
    backbone = network.backbone
    for block in backbone.finder.stages if isinstance(backbone, PoseBackbone) else backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _check_keypoints(run: Run, network: Network) -> None:
    """Check that the sidecars have as many keypoints as the backbone; those without fail when loaded."""
    backbone = network.backbone
    expected = backbone.finder.config.keypoints if isinstance(backbone, KeypointReader) else run.keypoints
    if run.keypoints not in (0, expected) and any(stage.needs_keypoints for stage in run.recipe.stages):
        raise TrainingError(
            f"the sidecars have {run.keypoints} keypoints, the backbone finds {expected}: set its number of keypoints"
        )


def _load_pretrained(network: Network, recipe: Recipe) -> None:
    first = recipe.stages[0].tuning
    allowed = ("all", "reader") if recipe.finder is not None else ("all",)
    if recipe.backbone is None and recipe.start is None and resolve_tuning(network, first) not in allowed:
        raise TrainingError(
            f"stage 0 with tuning {first} leaves a backbone as it is that was never trained: set backbone to "
            "pretrained weights (mmad import-weights, or backbone.safetensors of a run), start to a bundle, or tuning "
            "to all"
        )
    if recipe.start is not None:
        start_network(network, recipe.start)
    if recipe.backbone is not None:
        try:
            start_backbone(network.backbone, recipe.backbone)
        except WeightsError as error:
            raise TrainingError(str(error)) from error
    if recipe.finder is not None:  # last, since the finder of a backbone that was pretrained on keypoints is untrained
        start_finder(network, recipe.finder)


def _make_teacher(run: Run) -> Teacher | None:
    if run.recipe.teacher is None:
        return None
    teacher = Teacher(run.recipe.teacher, run.manifest.input)
    for number, stage in enumerate(run.recipe.stages):
        if stage.distillation and stage.given == "keypoints" and not teacher.finds_keypoints:
            raise TrainingError(
                f"teacher {run.recipe.teacher} reads no keypoints, and stage {number} is given nothing else: take a "
                "bundle of kind pose, or give the stage pictures"
            )
    return teacher


class _Loop:
    def __init__(self, fabric: Fabric, run: Run, network: Network, on_progress: OnProgress) -> None:
        self.fabric, self.out, self.recipe, self.on_progress = fabric, run.out, run.recipe, on_progress
        self._run = run
        half = run.recipe.precision == "bf16"
        self.module = TrainingModule(network, run.manifest, run.keypoints, half=half, teacher=_make_teacher(run))
        self.module.to(fabric.device)
        self.average = {name: value.clone() for name, value in network.state_dict().items()}
        self._initial = {name: value.clone() for name, value in self.average.items()}
        self.stage, self.step = 0, 0
        self.best: BestWeights | None = None
        self._held_out = self._make_held_out()
        self._validation: dict[str, float] = {}  # for the history's next row
        self._optimizer_state: dict[str, Any] | None = None
        self._writer: SummaryWriter | None = None
        self._last_save_s = time.monotonic()

    def _make_held_out(self) -> ValidationLoss | None:
        if not any(stage.validate_every for stage in self.recipe.stages):
            return None
        if self._run.held_out is None or not self._run.held_out.samples:
            raise TrainingError("validate_every needs videos that are held out, and there are none")
        return ValidationLoss(self._run.manifest, self._run.held_out, self.recipe, self.fabric.device)

    def final_weights(self) -> dict[str, Tensor]:
        """Return the result of the run if it ended now: (1 - alpha) * average + alpha * initial weights (WiSE-FT)."""
        alpha = self.recipe.wise_ft_alpha
        return {
            name: value.lerp(self._initial[name].to(value.device), alpha) if value.is_floating_point() else value
            for name, value in self.average.items()
        }

    def run_stages(self) -> None:
        while self.stage < len(self.recipe.stages):
            self._run_stage(self.recipe.stages[self.stage])
            self._save_backbone(self.recipe.stages[self.stage])
            self.stage, self.step, self._optimizer_state = self.stage + 1, 0, None
            self._save(None)
        if self._writer is not None:
            self._writer.close()

    def _run_stage(self, stage: StageConfig) -> None:
        network = self.module.network
        set_trainable(network, stage.tuning)
        groups = _make_parameter_groups(self.module, stage)
        optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY, betas=_BETAS)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        module, optimizer = self.fabric.setup(self.module, optimizer)
        module.train()
        if resolve_tuning(network, stage.tuning) != "all":  # frozen layers must not update their batch statistics
            network.backbone.eval()
        if self.step == 0:  # the initial weights of the stage may remain the best
            self._validate(stage)
        start_s, first_step = time.monotonic(), self.step
        previous_s = start_s
        for batch in self._batches(stage):
            factor = _get_rate_factor(self.step, stage)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            seeds = np.random.SeedSequence((self.recipe.seed, self.stage, self.step))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            losses = module(batch, stage)
            self._check_loss(losses["loss"], batch)
            optimizer.zero_grad()
            self.fabric.backward(losses["loss"])
            self.fabric.clip_gradients(module, optimizer, max_norm=_MAX_GRADIENT_NORM, error_if_nonfinite=False)
            optimizer.step()
            self.step += 1
            self._update_average(network)
            self._validate(stage)
            now_s = time.monotonic()
            rate = stage.batch * (self.step - first_step) / max(now_s - start_s, 1e-6)
            cost = {"frames": int(batch.mask.sum()) * self.fabric.world_size, "seconds": round(now_s - previous_s, 4)}
            previous_s = now_s
            self._report(stage, losses, rate, cost)
            if stage.patience and self.best is not None and self.best.missed >= stage.patience:
                break
            if time.monotonic() - self._last_save_s > 60 * self.recipe.save_minutes:
                self._save(optimizer)
        if self.best is not None:
            self.average = self.best.weights
            network.load_state_dict(self.average)  # the next stage continues from them
            self.best = None

    def _validate(self, stage: StageConfig) -> None:
        """Measure the held-out loss of `final_weights` if it is due, and store the best weights."""
        due = stage.validate_every and (self.step % stage.validate_every == 0 or self.step == stage.steps)
        if not due or self._held_out is None:
            return
        local_loss = self._held_out.loss(self.final_weights()) if self.fabric.is_global_zero else 0.0
        loss = float(self.fabric.broadcast(local_loss))
        self.best = (self.best or BestWeights()).update(loss, self.step, self.average)
        if self.fabric.is_global_zero:
            self._validation["held_out" if self.step else "held_out_before"] = loss
            self._log_scalars({"held out/loss": loss, "held out/best": self.best.loss})

    def _save_backbone(self, stage: StageConfig) -> None:
        """Save the backbone of a pretraining stage, for other recipes."""
        if stage.objective != "detection" and stage.tuning in ("all", "reader") and self.fabric.is_global_zero:
            prefix = "backbone."
            weights = {
                name.removeprefix(prefix): value.cpu().contiguous()
                for name, value in self.average.items()
                if name.startswith(prefix) and ".adapter." not in name
            }
            save_backbone(weights, self._run.manifest.architecture.backbone, self.out / BACKBONE)

    def _batches(self, stage: StageConfig) -> Iterator[Batch]:
        """Yield this process's part of every remaining batch of a stage."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if stage.batch % world:
            raise TrainingError(
                f"a batch of {stage.batch} cannot be shared by {world} devices: set batch to a multiple"
            )
        local = stage.batch // world
        numbers = [
            list(range(step * stage.batch + rank * local, step * stage.batch + (rank + 1) * local))
            for step in range(self.step, stage.steps)
        ]
        examples = Examples(self._run, self.stage)
        for batch in load_batches(examples, numbers, self._run.manifest, self.recipe.data.workers):
            yield Batch(*(part.to(self.fabric.device) for part in batch))

    def _check_loss(self, loss: Tensor, batch: Batch) -> None:
        if not bool(torch.isfinite(loss)):
            path = self.out / f"bad-batch-{self.stage}-{self.step}.pt"
            torch.save(batch._asdict(), path)
            raise TrainingError(
                f"the loss of stage {self.stage}, step {self.step} is {float(loss.detach())}: the batch is in {path}; "
                "a lower learning rate, or precision fp32, may help"
            )

    def _update_average(self, network: Network) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step)) if self.recipe.ema else 0.0
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def _report(self, stage: StageConfig, losses: dict[str, Tensor], rate: float, cost: dict[str, float]) -> None:
        """Report a step of this cost (frames, seconds) to on_progress, history.jsonl and TensorBoard."""
        numbers = {name: float(value.detach()) for name, value in losses.items()}
        if self.fabric.is_global_zero:
            self.on_progress(Progress(self.stage, self.step, stage.steps, numbers, rate, self.best))
            with (self.out / HISTORY).open("a", encoding="utf-8") as file:
                row = {"stage": self.stage, "step": self.step, **numbers, **self._validation, **cost}
                file.write(json.dumps(row) + "\n")
            self._validation = {}
            if self.step % _LOG_EVERY == 0 or self.step == stage.steps:
                shown = {**numbers, "windows a second": rate, "rate": _get_rate_factor(self.step, stage)}
                self._log_scalars({f"train/{name}": value for name, value in shown.items()})

    def _log_scalars(self, numbers: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(self.out / "tensorboard")
        done = sum(one.steps for one in self.recipe.stages[: self.stage]) + self.step
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, done)

    def _save(self, optimizer: Any) -> None:
        self._last_save_s = time.monotonic()
        if not self.fabric.is_global_zero:
            return
        state = {
            "stage": self.stage,
            "step": self.step,
            "trainee": self.module.state_dict(),
            "average": self.average,
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "best": None if self.best is None else vars(self.best),
            "videos": self._run.digest(),
        }
        with write_aside(self.out / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def resume(self) -> None:
        """Load the checkpoint in the run's folder. Raises TrainingError if it does not match the run."""
        path = find_checkpoint(self.out)
        if not self._is_same_recipe():
            raise TrainingError(f"{self.out / RECIPE} is not this recipe: go on with it, or start in another --out")
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        if state.get("videos", self._run.digest()) != self._run.digest():
            raise TrainingError(
                f"{self.out} was begun with other videos, annotations or held-out videos: go on with those, or start "
                "in another --out"
            )
        for unfinished in path.parent.glob(f".*{path.suffix}"):  # left when the run was killed while it wrote
            unfinished.unlink()
        self.module.load_state_dict(state["trainee"])
        self.average = state["average"]
        self.stage, self.step, self._optimizer_state = state["stage"], state["step"], state["optimizer"]
        self.best = BestWeights(**state["best"]) if state.get("best") else None
        if self.fabric.is_global_zero:
            self._cut_history()

    def _is_same_recipe(self) -> bool:
        """Compare recipes by value, so that settings that are newer than the run count with their defaults."""
        try:
            return load_recipe(str(self.out / RECIPE), []) == self.recipe
        except RecipeError:
            return False

    def _cut_history(self) -> None:
        """Remove the steps after the checkpoint from history.jsonl, since they are run again."""
        path = self.out / HISTORY
        if path.exists():
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            past = [row for row in rows if (row["stage"], row["step"]) <= (self.stage, self.step)]
            path.write_text("".join(json.dumps(row) + "\n" for row in past), encoding="utf-8")


def _make_parameter_groups(module: TrainingModule, stage: StageConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate; biases and norms have no weight decay."""
    rates = {"backbone": stage.backbone_rate, "adapter": stage.adapter_rate, "head": stage.head_rate}
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            part = "head"
            if name.startswith("network.backbone."):
                part = "adapter" if ".adapter." in name else "backbone"
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "lr": rates[part], "peak": rates[part]} | ({} if decays else {"weight_decay": 0.0})
        for (part, decays), members in groups.items()
    ]


def _get_rate_factor(step: int, stage: StageConfig) -> float:
    """Return the learning rate relative to its peak: linear warm-up, then cosine decay."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(stage.steps - stage.warmup, 1)
    return stage.final + (1 - stage.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
