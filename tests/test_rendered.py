"""Films rendered while a network trains: which one an example shows, how long it is kept, and that they are the set's."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from mmad.cli import app
from training import rendered
from training.dataset import read_frames
from training.people.film import Recipe, person_of, subset_of
from training.people.options import Mix, Storage, Subset
from training.people.studio import Order, produce
from training.recipe import RenderConfig, load_recipe
from training.rendered import Rendered, film_number
from training.run import Examples, Run, make_manifest
from training.tables import standard_labels

CONFIG = RenderConfig(seed=3, height=48, width=48, fps=10.0, films=6, uses=3, held_out=2)
RNG = np.random.default_rng(0)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Films that are records of their number alone."""
    shown = []

    def record(order, number):
        shown.append(number)
        (order.out / "records" / f"{rendered.name_of(number)}.json").write_text(
            '{"duration": 1, "actions": []}'
        )

    monkeypatch.setattr(rendered, "make_video", record)
    return Rendered(CONFIG, tmp_path, standard_labels()), shown


def test_every_film_is_used_as_often_and_rendered_once(made):
    source, shown = made
    names = [source.draw(RNG, number).name for number in range(6 * 12)]
    uses = Counter(names)
    whole = [uses[rendered.name_of(film_number(index, Subset.TRAIN))] for index in range(6, 18)]
    assert whole == [3] * 12  # those that are there at first go at different times
    assert len(shown) == len(set(shown)) == len(uses)
    assert all(subset_of(Recipe(), person_of(number)) is Subset.TRAIN for number in shown)


def test_films_change_a_few_at_a_time_and_are_not_kept(made, tmp_path):
    source, _ = made
    turns = [{source.draw(RNG, 6 * turn + place).name for place in range(6)} for turn in range(12)]
    assert all(len(turn) == 6 for turn in turns)
    fresh = [len(later - before) for before, later in pairwise(turns)]
    assert fresh == [2] * 11  # six films, three turns each
    assert len(list(next(tmp_path.iterdir()).joinpath("records").iterdir())) <= 3 * 6


def test_neighbours_are_in_random_order_and_the_same_again(made):
    source, _ = made
    first = [source.draw(RNG, number).name for number in range(12)]
    assert first == [source.draw(RNG, number).name for number in range(12)]
    assert first[:6] != sorted(first[:6]) or first[6:] != sorted(first[6:])


def test_films_of_other_settings_are_not_taken(made):
    source, shown = made
    source.draw(RNG, 0)
    other = Rendered(CONFIG.model_copy(update={"seed": 4}), source.folder, source.taxonomy)
    (other.place / "records").mkdir(parents=True)
    other.draw(RNG, 0)
    assert len(shown) == 2


def test_a_stage_goes_on_with_the_films_where_the_one_before_ended(tmp_path, monkeypatch):
    numbers = []
    recipe = load_recipe("smoke", ["stages.0.steps=3", "stages.0.batch=2"])
    source = Rendered(CONFIG, tmp_path, standard_labels())
    monkeypatch.setattr(Rendered, "draw", lambda self, rng, number: numbers.append(number) or self.missing)
    run = Run(recipe, make_manifest(recipe, standard_labels(), ""), source, tmp_path, 0)
    for stage in (0, 1):
        with pytest.raises(AttributeError, match="missing"):
            Examples(run, stage)[4]
    assert numbers == [4, 10]


def test_subsets_have_films_of_their_own():
    for subset in (Subset.TRAIN, Subset.VAL):
        numbers = [film_number(index, subset) for index in range(100)]
        assert len(set(numbers)) == 100
        assert {subset_of(Recipe(), person_of(number)) for number in numbers} == {subset}


def test_films_are_those_of_a_data_set_of_the_same_seed(tmp_path):
    source = Rendered(CONFIG, tmp_path / "films", standard_labels())
    items = [source.draw(RNG, number) for number in range(6)]
    recipe = Recipe(seed=3, fps=10.0, height=48, width=48, mix=Mix.BALANCED, crop=CONFIG.crop)
    produce(Order(recipe, tmp_path / "set", Storage.NPZ, 6), 1, lambda done, count: None)
    seen = load_recipe("smoke", []).input.model_copy(update={"fps": 10.0})
    for item in items:
        with np.load(tmp_path / "set" / "frames" / f"{item.name}.npz") as arrays:
            assert np.array_equal(arrays["frames"], read_frames(item, seen, 1.0))
    assert source.count_joints() == 25


def test_a_run_needs_no_data_set(tmp_path):
    render = "render={seed: 5, height: 48, width: 48, fps: 5, films: 4, uses: 2, held_out: 2}"
    steps = ["stages.0.steps=3", "stages.1.steps=3", "data.workers=0"]
    settings = [argument for setting in (render, *steps) for argument in ("--set", setting)]
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path), "--config", "smoke", *settings])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "bundle" / "bundle.json").exists()
    assert "rendered meanwhile (seed 5)" in result.output
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "x"), "--config", "smoke"])
    assert result.exit_code != 0
    assert "give --data FOLDER" in result.output
