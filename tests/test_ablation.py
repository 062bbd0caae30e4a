"""The ablation program on a tiny data set: shared pretraining, finished runs, the table."""

import json
import sys

import pytest

from training import ablation
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import load_recipe
from training.run import make_manifest
from training.tables import standard_labels


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_variant_makes_expected_architecture(variant):
    recipe = load_recipe("ablation", [*ablation.SKIP_PRETRAINING, ablation.VARIANTS[variant]])
    architecture = make_manifest(recipe, standard_labels(), "data").architecture
    assert (recipe.stages[-1].given == "keypoints") == architecture.finds_keypoints
    has_adapter = "adapter" in variant or "TIA" in variant or "DSTA" in variant
    assert (architecture.adapter.kind != "none") == has_adapter == (recipe.stages[-1].tuning == "adapters")


def test_ablation_runs_variants_once_and_writes_table(tmp_path, monkeypatch, capsys):
    people = People(seed=6, fps=10.0, height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(people, tmp_path / "people", Storage.NPZ, 16), 1, lambda done, count: None)
    arguments = ["ablation", "--data", str(tmp_path / "people"), "--out", str(tmp_path / "runs"), "--config", "smoke",
                 "--seeds", "1", "--set", "stages.0.steps=2", "--set", "stages.1.steps=2", "--set", "validate_videos=1", "--only", "DSTA, kernel 3", "frozen features"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    ablation.main()
    printed = capsys.readouterr().out
    assert "| DSTA, kernel 3 |" in printed
    assert "| frozen features | 0.000 |" in printed  # no weight of the backbone is trained
    assert (tmp_path / "runs" / "table.md").read_text() == printed
    rows = [json.loads(line) for line in (tmp_path / "runs" / "pretrained" / "history.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == [0, 0, 1]
    metrics = json.loads((tmp_path / "runs" / "DSTA-kernel-3-0" / "metrics.json").read_text())
    assert metrics["videos"] == 1  # of two held-out videos, limited by --set
    finished = (tmp_path / "runs" / "DSTA-kernel-3-0" / "checkpoint.pt").stat().st_mtime_ns
    ablation.main()
    assert (tmp_path / "runs" / "DSTA-kernel-3-0" / "checkpoint.pt").stat().st_mtime_ns == finished
