"""Draw sheets for visual inspection: one strip of frames per action, one sheet per body part.

python -m training.people.strips --out docs/synthetic [CODE ...]
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from model.arrays import Array
from model.taxonomy import Taxonomy
from training.people.actions import ACTIONS, BY_CODE, Action, Sides
from training.people.body import Anatomy, load_anatomy
from training.people.film import Recipe, make_film
from training.people.render.cpu import render
from training.people.scene import Framing
from training.people.schedules.schedule import Event, Schedule
from training.tables import standard_labels

FRAMES, SIZE, FPS, DURATION_S = 8, 144, 15.0, 4.2
_SPAN = (0.9, 3.2)  # of the action, seconds
# Framings: the whole person, or closer for small actions.
_WHOLE = Framing(3.4, 1.15, 0.15, 0.84, 0.5, 0.5, 0.0, "", 0.0)
_UPPER = replace(_WHOLE, cut="chest")
_MIDDLE = replace(_WHOLE, cut="knees")


def draw_strip(
    action: Action, anatomy: Anatomy, *, person: int, sides: Sides, size: int = SIZE, framing: Framing = _WHOLE
) -> Array:
    """Render one action of one person from before its start to after its end: (size, FRAMES * size, 3) uint8."""
    recipe = Recipe(seed=8, fps=FPS, height=size, width=size)
    film = make_film(recipe, 5 * person, anatomy, make_schedule(action, sides), framing)
    frames = np.linspace(0.3 * FPS, len(film.shot) - 0.2 * FPS, FRAMES).astype(int)
    shot = replace(
        film.shot,
        transforms=film.shot.transforms[frames],
        expressions=film.shot.expressions[frames],
        cameras=film.shot.cameras[frames],
    )
    return np.concatenate(list(render(shot)), 1)


def make_schedule(action: Action, sides: Sides) -> Schedule:
    """Return a schedule with this action only; C10 (retracting an arm) is preceded by C4 (stretching it)."""
    start_s, end_s = _SPAN
    events = [Event(action.code, start_s, end_s, sides)]
    if action.code == "C10":
        events = [Event("C4", 0.4, 1.7, sides), Event("C10", 1.7, 2.9, sides)]
    return Schedule(DURATION_S, tuple(events))


def choose_sides(action: Action, number: int) -> Sides:
    """Return the sides for the nth strip of an action: left, right, and both if the action allows both."""
    if action.both == 1.0 or (action.both > 0 and number % 3 == 2):
        return ("left", "right")
    return ("left",) if number % 2 == 0 else ("right",)


def _framing(action: Action) -> Framing:
    """Return a closer framing for small movements of the head or the hands."""
    if "head" in action.visible_parts or action.code in ("A4", "E2"):
        return _UPPER
    return _MIDDLE if action.hand is not None and action.code[0] in "CE" else _WHOLE


def draw_sheet(
    actions: Sequence[Action], taxonomy: Taxonomy, anatomy: Anatomy, *, size: int = SIZE, first: int = 0
) -> Image.Image:
    """Stack one captioned strip per action; every strip shows another person."""
    names = {action.code: action.name for action in taxonomy.actions}
    rows = []
    for index, action in enumerate(actions):
        picture = draw_strip(
            action, anatomy, person=first + index, sides=choose_sides(action, first + index), size=size,
            framing=_framing(action),
        )  # fmt: skip
        row = Image.new("RGB", (picture.shape[1], picture.shape[0] + 14), "white")
        row.paste(Image.fromarray(picture), (0, 14))
        ImageDraw.Draw(row).text((3, 1), f"{action.code} {names[action.code]}", fill="black")
        rows.append(row)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def main() -> None:
    """Write the sheets of all body parts, or one sheet of the given actions."""
    parser = ArgumentParser(description="One strip per action.")
    parser.add_argument("codes", nargs="*", help="actions; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder, or file for named actions")
    parser.add_argument("--size", type=int, default=SIZE, help="of a frame, pixels")
    parser.add_argument("--first", type=int, default=0, help="number of the first person")
    options = parser.parse_args()
    anatomy, taxonomy = load_anatomy(), standard_labels()
    if options.codes:
        chosen = [BY_CODE[code] for code in options.codes]
        draw_sheet(chosen, taxonomy, anatomy, size=options.size, first=options.first).save(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for part in taxonomy.bodies:
        chosen = [action for action in ACTIONS if action.code[0] == part.code]
        sheet = draw_sheet(chosen, taxonomy, anatomy, size=options.size, first=options.first)
        sheet.save(options.out / f"{part.code}.jpg", quality=88)


if __name__ == "__main__":
    main()
