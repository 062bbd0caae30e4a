"""Small training runs of the smoke recipe."""

import json
from collections.abc import Iterable
from pathlib import Path

from training.dataset import load_dataset
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import AugmentConfig, load_recipe
from training.run import HISTORY, Run, make_manifest
from training.tables import standard_labels

TAXONOMY = standard_labels()
# The smoke recipe with a few steps.
SHORT = ["stages.0.steps=3", "stages.1.steps=4", "stages.0.warmup=1", "stages.1.warmup=1"]
PLAIN = AugmentConfig(scale=(1, 1), flip=0, speed=(1, 1), truncate=0, freeze=0, colour=False)


def render_people(folder: Path) -> Path:
    """Render 17 videos of 48 x 48 pixels and 10 fps."""
    people = People(seed=1, fps=10.0, height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(people, folder, Storage.NPZ, 17), 1, lambda done, count: None)
    return folder


def make_run(data: Path, out: Path, *overrides: str) -> Run:
    recipe = load_recipe("smoke", [*SHORT, *overrides])
    dataset = load_dataset([data], TAXONOMY, "train", recipe.data.class_balance_exponent)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), dataset, out, dataset.count_keypoints())


def set_options(settings: Iterable[str]) -> list[str]:
    """Return the options of the command for settings of a recipe."""
    return [part for setting in settings for part in ("--set", setting)]


def read_losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / HISTORY).read_text().splitlines()]
