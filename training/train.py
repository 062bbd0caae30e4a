"""The training loop: stages, checkpoints that a run can be taken up from, and what is watched meanwhile.

Every example follows from the seed, the stage and its number alone, so that a run that was interrupted goes on exactly
as it would have.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model.network import Network
from model.pose_estimator import JointReader
from training.batches import explain_worker_errors, load_batches
from training.distillation import Teacher
from training.evaluation.early_stopping import BestWeights, ValidationLoss
from training.objectives import Batch, TrainingModule
from training.recipe import Recipe, RecipeError, StageConfig, parse_recipe
from training.run import BACKBONE, CHECKPOINT, HISTORY, RECIPE, Examples, Run, TrainingError
from training.start import start_finder, start_network
from training.tuning import recompute_blocks, resolve_tuning, set_trainable
from training.weights import WeightsError, save_backbone, start_backbone

_LOG_EVERY = 10


class Progress(NamedTuple):
    """Where a run is: stage and step of it, the last losses, windows a second.

    `best` is the stage's lowest loss on held-out videos so far, where it measures any.
    """

    stage: int
    step: int
    steps: int
    losses: dict[str, float]
    rate: float
    best: BestWeights | None = None


Watch = Callable[[Progress], None]


def train(
    run: Run, watch: Watch, *, resume: bool = False, accelerator: str = "auto", devices: int = 1
) -> Network:
    """Train through all stages; returns the network with the weights that are kept.

    Args:
        run: what and where.
        watch: told of every step.
        resume: go on from the checkpoint in the run's folder.
        accelerator, devices: of Lightning Fabric; under torchrun every process calls this.

    Raises:
        TrainingError: a loss that is no number, a checkpoint that does not fit, a teacher that sees other pictures, or
            a first stage that freezes what nothing has trained, or a process that reads videos and was ended.
    """
    # The outputs of one objective are unused under the other.
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
    fabric.launch()
    torch.manual_seed(run.recipe.seed)
    network = Network(run.manifest)
    _check_joints(run, network)
    _load_pretrained(network, run.recipe)
    if run.recipe.activation_checkpointing:
        recompute_blocks(network)
    loop = _Loop(fabric, run, network, watch)
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
    trained.load_state_dict(loop.left())
    return trained.eval()


def find_checkpoint(out: Path) -> Path:
    """What a run goes on from; raises TrainingError where its folder has none."""
    path = out / CHECKPOINT
    if not path.exists():
        raise TrainingError(f"{out} has no {CHECKPOINT} to go on from: start without --resume")
    return path


def is_first_process() -> bool:
    """Whether this process, of several that trained, is the one that tells and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _between(begun: dict[str, Tensor], kept: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Kept weights with a share of those that the run began with; counts are the kept ones."""
    return {
        name: value.lerp(begun[name].to(value.device), share) if value.is_floating_point() else value
        for name, value in kept.items()
    }


def _check_joints(run: Run, network: Network) -> None:
    """That sidecars have the joints that the backbone finds; videos without any are told when they are drawn."""
    backbone = network.backbone
    wanted = backbone.finder.config.joints if isinstance(backbone, JointReader) else run.joints
    learned = any(stage.objective == "joints" or stage.given == "joints" for stage in run.recipe.stages)
    if learned and run.joints and run.joints != wanted:
        raise TrainingError(
            f"the sidecars have {run.joints} joints, the backbone finds {wanted}: set its number of joints"
        )


def _load_pretrained(network: Network, recipe: Recipe) -> None:
    first = recipe.stages[0].tuning
    whole = ("all", "reader") if recipe.finder is not None else ("all",)
    if recipe.backbone is None and recipe.start is None and resolve_tuning(network, first) not in whole:
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
    if recipe.finder is not None:  # last: a backbone that was pretrained on joints has one that knows nothing
        start_finder(network, recipe.finder)


def _make_teacher(run: Run) -> Teacher | None:
    """The recipe's, as one that can be given what every stage that imitates it is given."""
    if run.recipe.teacher is None:
        return None
    teacher = Teacher(run.recipe.teacher, run.manifest.input)
    for number, stage in enumerate(run.recipe.stages):
        if stage.distillation and stage.given == "joints" and not teacher.finds_joints:
            raise TrainingError(
                f"teacher {run.recipe.teacher} reads no joints, and stage {number} is given nothing else: take a "
                "bundle of kind pose, or give the stage pictures"
            )
    return teacher


class _Loop:
    """The state of a run."""

    def __init__(self, fabric: Fabric, run: Run, network: Network, watch: Watch) -> None:
        self.fabric, self.out, self.recipe, self.watch = fabric, run.out, run.recipe, watch
        self._run = run
        half = run.recipe.precision == "bf16"
        teacher = _make_teacher(run)
        self.trainee = TrainingModule(network, run.manifest, run.joints, half=half, teacher=teacher)
        self.trainee.to(fabric.device)
        self.kept = {name: value.clone() for name, value in network.state_dict().items()}
        self._begun = {name: value.clone() for name, value in self.kept.items()}
        self.stage, self.step = 0, 0
        self.best: BestWeights | None = None
        self._held_out = self._make_held_out()
        self._measured: dict[str, float] = {}  # for the history's next row
        self._optimizer_state: dict[str, Any] | None = None
        self._writer: SummaryWriter | None = None
        self._saved = time.monotonic()

    def _make_held_out(self) -> ValidationLoss | None:
        if not any(stage.validate_every for stage in self.recipe.stages):
            return None
        if self._run.held_out is None or not self._run.held_out.samples:
            raise TrainingError("validate_every needs videos that are held out, and there are none")
        return ValidationLoss(self._run.manifest, self._run.held_out, self.recipe, self.fabric.device)

    def left(self) -> dict[str, Tensor]:
        """What the run leaves if it ends now: kept weights, with a share of those that it began with."""
        return _between(self._begun, self.kept, self.recipe.wise_ft_alpha)

    def run_stages(self) -> None:
        """Every stage from where the run is."""
        while self.stage < len(self.recipe.stages):
            self._run_stage(self.recipe.stages[self.stage])
            self._keep_backbone(self.recipe.stages[self.stage])
            self.stage, self.step, self._optimizer_state = self.stage + 1, 0, None
            self._save(None)
        if self._writer is not None:
            self._writer.close()

    def _run_stage(self, stage: StageConfig) -> None:
        network = self.trainee.network
        set_trainable(network, stage.tuning)
        optimizer = torch.optim.AdamW(
            _groups(self.trainee, stage), weight_decay=stage.weight_decay, betas=(0.9, 0.98)
        )
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        trainee, optimizer = self.fabric.setup(self.trainee, optimizer)
        trainee.train()
        if resolve_tuning(network, stage.tuning) != "all":  # what is frozen keeps its statistics too
            network.backbone.eval()
        if self.step == 0:  # what a stage begins with may stay the best
            self._measure(stage)
        begin, first = time.monotonic(), self.step
        before = begin
        for batch in self._batches(stage):
            share = _schedule(self.step, stage)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            torch.manual_seed(derive_seed(self.recipe.seed, self.stage, self.step))
            losses = trainee(batch, stage)
            self._check(losses["loss"], batch)
            optimizer.zero_grad()
            self.fabric.backward(losses["loss"])
            self.fabric.clip_gradients(trainee, optimizer, max_norm=stage.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            self.step += 1
            self._average(network)
            self._measure(stage)
            now = time.monotonic()
            rate = stage.batch * (self.step - first) / max(now - begin, 1e-6)
            work = {
                "frames": int(batch.mask.sum()) * self.fabric.world_size,
                "seconds": round(now - before, 4),
            }
            before = now
            self._tell(stage, losses, rate, work)
            if stage.patience and self.best is not None and self.best.missed >= stage.patience:
                break
            if time.monotonic() - self._saved > 60 * self.recipe.save_minutes:
                self._save(optimizer)
        if self.best is not None:
            self.kept = self.best.weights
            network.load_state_dict(self.kept)  # a next stage goes on from there
            self.best = None

    def _measure(self, stage: StageConfig) -> None:
        """When it is time: the loss on held-out videos of what the run would leave. The best weights are put aside."""
        due = stage.validate_every and (self.step % stage.validate_every == 0 or self.step == stage.steps)
        if not due or self._held_out is None:
            return
        mine = self._held_out.loss(self.left()) if self.fabric.is_global_zero else 0.0
        loss = float(self.fabric.broadcast(mine))
        self.best = (self.best or BestWeights()).update(loss, self.step, self.kept)
        if self.fabric.is_global_zero:
            self._measured["held_out" if self.step else "held_out_before"] = loss
            self._scalars({"held out/loss": loss, "held out/best": self.best.loss})

    def _keep_backbone(self, stage: StageConfig) -> None:
        """What a stage that trained a backbone made of it, for other recipes to begin with."""
        if (
            stage.objective != "detection"
            and stage.tuning in ("all", "reader")
            and self.fabric.is_global_zero
        ):
            prefix = "backbone."
            weights = {
                name.removeprefix(prefix): value.cpu().contiguous()
                for name, value in self.kept.items()
                if name.startswith(prefix) and ".adapter." not in name
            }
            save_backbone(weights, self._run.manifest.architecture.backbone, self.out / BACKBONE)

    def _batches(self, stage: StageConfig) -> Iterator[Batch]:
        """This process's part of every batch that is left of a stage."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if stage.batch % world:
            raise TrainingError(
                f"a batch of {stage.batch} cannot be shared by {world} devices: set batch to a multiple"
            )
        mine = stage.batch // world
        numbers = [
            list(range(step * stage.batch + rank * mine, step * stage.batch + (rank + 1) * mine))
            for step in range(self.step, stage.steps)
        ]
        examples = Examples(self._run, self.stage)
        for batch in load_batches(examples, numbers, self._run.manifest, self.recipe.data.workers):
            yield Batch(*(part.to(self.fabric.device) for part in batch))

    def _check(self, loss: Tensor, batch: Batch) -> None:
        if not bool(torch.isfinite(loss)):
            path = self.out / f"bad-batch-{self.stage}-{self.step}.pt"
            torch.save(batch._asdict(), path)
            raise TrainingError(
                f"the loss of stage {self.stage}, step {self.step} is {float(loss.detach())}: the batch is in {path}; "
                "a lower learning rate, or precision fp32, may help"
            )

    def _average(self, network: Network) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step)) if self.recipe.ema else 0.0
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.kept[name].lerp_(value.detach(), 1 - decay)
            else:
                self.kept[name].copy_(value)

    def _tell(
        self, stage: StageConfig, losses: dict[str, Tensor], rate: float, work: dict[str, float]
    ) -> None:
        """A step to whoever watches and to the history; `work` is what it took: frames and seconds."""
        numbers = {name: float(value.detach()) for name, value in losses.items()}
        if self.fabric.is_global_zero:
            self.watch(Progress(self.stage, self.step, stage.steps, numbers, rate, self.best))
            with (self.out / HISTORY).open("a", encoding="utf-8") as file:
                row = {"stage": self.stage, "step": self.step, **numbers, **self._measured, **work}
                file.write(json.dumps(row) + "\n")
            self._measured = {}
            if self.step % _LOG_EVERY == 0 or self.step == stage.steps:
                shown = {**numbers, "windows a second": rate, "rate": _schedule(self.step, stage)}
                self._scalars({f"train/{name}": value for name, value in shown.items()})

    def _scalars(self, numbers: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(self.out / "tensorboard")
        done = sum(one.steps for one in self.recipe.stages[: self.stage]) + self.step
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, done)

    def _save(self, optimizer: Any) -> None:
        """Aside, then renamed: what is there is whole."""
        self._saved = time.monotonic()
        if not self.fabric.is_global_zero:
            return
        state = {
            "stage": self.stage,
            "step": self.step,
            "trainee": self.trainee.state_dict(),
            "kept": self.kept,
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "best": None if self.best is None else vars(self.best),
            "videos": self._run.digest(),
        }
        aside = self.out / f".{CHECKPOINT}"
        torch.save(state, aside)
        aside.replace(self.out / CHECKPOINT)

    def resume(self) -> None:
        """Take up the checkpoint of the run's folder, if there is one."""
        path = find_checkpoint(self.out)
        if not self._is_same_recipe():
            raise TrainingError(
                f"{self.out / RECIPE} is not this recipe: go on with it, or start in another --out"
            )
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        if state.get("videos", self._run.digest()) != self._run.digest():
            raise TrainingError(
                f"{self.out} was begun with other videos, annotations or held-out videos: go on with those, or start "
                "in another --out"
            )
        self.trainee.load_state_dict(state["trainee"])
        self.kept = state["kept"]
        self.stage, self.step, self._optimizer_state = state["stage"], state["step"], state["optimizer"]
        self.best = BestWeights(**state["best"]) if state.get("best") else None
        if self.fabric.is_global_zero:
            self._cut_history()

    def _is_same_recipe(self) -> bool:
        """By value: settings that did not exist when the run began have the values that they had."""
        path = self.out / RECIPE
        try:
            return parse_recipe(yaml.safe_load(path.read_text("utf-8")), str(path)) == self.recipe
        except (RecipeError, yaml.YAMLError):
            return False

    def _cut_history(self) -> None:
        """Steps after the checkpoint are made again."""
        path = self.out / HISTORY
        if path.exists():
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            kept = [row for row in rows if (row["stage"], row["step"]) <= (self.stage, self.step)]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def derive_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _groups(trainee: TrainingModule, stage: StageConfig) -> list[dict[str, Any]]:
    """Parameters that move, by their learning rate; biases and norms do not decay."""
    rates = {"backbone": stage.backbone_rate, "adapter": stage.adapter_rate, "head": stage.head_rate}
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in trainee.named_parameters():
        if parameter.requires_grad:
            part = (
                "head"
                if not name.startswith("network.backbone.")
                else "adapter"
                if ".adapter." in name
                else "backbone"
            )
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "lr": rates[part], "peak": rates[part]}
        | ({} if decays else {"weight_decay": 0.0})
        for (part, decays), members in groups.items()
    ]


def _schedule(step: int, stage: StageConfig) -> float:
    """Share of the highest rate: linear growth, then a cosine down."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(stage.steps - stage.warmup, 1)
    return stage.final + (1 - stage.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
