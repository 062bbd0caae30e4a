"""Sample a person: body, skin, hair and clothes; build the dressed mesh."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.arrays import Array
from training.people.body import Anatomy, Part
from training.people.options import Subset
from training.people.render import materials as m
from training.people.render.cpu import compute_normals
from training.people.render.shot import Mesh

# Bodies are split by index modulo 8, so that no body occurs in two subsets.
_BODIES = {Subset.TRAIN: (1, 2, 3, 5, 6, 7), Subset.VAL: (0,), Subset.TEST: (4,)}
_GLASSES = 0.32  # probability


@dataclass(frozen=True)
class Person:
    """The appearance of one person.

    Attributes:
        body: index into the body model.
        gender, age: of the body (1 female, 1 old).
        dress: appearance vector, see materials.py.
        loose, loose_legs: distance of shirt and trousers from the skin, metres.
        hair_volume: thickness, metres.
        hair_length: height on the standard body down to which long hair falls, 0 without long hair.
        glasses: worn in every video.
    """

    body: int
    gender: float
    age: float
    dress: Array
    loose: float
    loose_legs: float
    hair_volume: float
    hair_length: float
    glasses: bool


def draw_person(rng: np.random.Generator, anatomy: Anatomy, subset: Subset = Subset.TRAIN) -> Person:
    """Draw a person with a body of the subset."""
    rows = np.arange(anatomy.people)
    rows = rows[np.isin(rows % 8, _BODIES[subset])]
    body = int(rows[rng.integers(len(rows))])
    gender, age, _ = anatomy.phenotypes[body]
    dress = np.zeros(m.DRESS_SIZE, np.float32)
    _draw_head(rng, dress, gender, age)
    _draw_clothes(rng, dress)
    return Person(
        body=body,
        gender=float(gender),
        age=float(age),
        dress=dress,
        loose=rng.uniform(0.012, 0.042),
        loose_legs=rng.uniform(0.006, 0.03),
        hair_volume=rng.uniform(0.008, 0.024),
        hair_length=rng.uniform(0.38, 0.62) if gender > 0.5 and rng.random() < 0.6 else 0.0,
        glasses=bool(rng.random() < _GLASSES),
    )


def linear(colour: Any) -> Array:
    """Convert display values 0 to 1 to linear light."""
    return np.asarray(np.clip(np.asarray(colour, float), 0, 1) ** 2.2)


def draw_colour(rng: np.random.Generator) -> Array:
    """Draw a colour of clothes or props in linear light: mostly muted or grey, sometimes saturated."""
    kind = rng.random()
    value = rng.beta(1.3, 1.5)
    if kind < 0.45:
        return linear(value * 0.85 + 0.05 + rng.normal(0, 0.02, 3))
    hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
    strength = rng.uniform(0.04, 0.16) if kind < 0.88 else rng.uniform(0.2, 0.42)
    return linear(0.12 + 0.6 * value + strength * np.cos(hue))


def draw_seat_colour(rng: np.random.Generator) -> Array:
    """Draw a seat colour: half of the time a typical colour of plastic stools, else any colour."""
    if rng.random() < 0.5:
        colour = np.array(((0.85, 0.12, 0.1), (0.12, 0.3, 0.7), (0.1, 0.5, 0.3), (0.9, 0.9, 0.88), (0.85, 0.5, 0.1)))[
            rng.choice(5, p=(0.45, 0.2, 0.1, 0.15, 0.1))
        ]
        return linear(colour * rng.uniform(0.8, 1.05) + rng.normal(0, 0.02, 3))
    return draw_colour(rng)


def _draw_head(rng: np.random.Generator, dress: Array, gender: float, age: float) -> None:
    tone = rng.beta(1.6, 1.3)  # dark to light
    light, dark = np.array([0.91, 0.73, 0.62]), np.array([0.36, 0.23, 0.17])
    skin = dark + tone * (light - dark) + rng.normal(0, 0.012, 3)
    dress[m.SKIN : m.SKIN + 3] = linear(skin)
    dress[m.LIPS : m.LIPS + 3] = linear(skin * (0.86, 0.62, 0.62))
    if age > 0.88 and rng.random() < 0.6:
        hair = np.full(3, rng.uniform(0.45, 0.85))
    elif rng.random() < 0.75:
        hair = np.array([0.11, 0.09, 0.085]) * rng.uniform(0.6, 1.8)
    else:
        hair = np.array([0.42, 0.28, 0.16]) * rng.uniform(0.5, 1.7)
    dress[m.HAIR : m.HAIR + 3] = linear(hair)
    bald = gender < 0.5 and age > 0.75 and rng.random() < 0.2
    dress[m.HAIRLINE] = rng.uniform(0.83, 0.9) if bald else rng.uniform(0.782, 0.802)
    dress[m.BEARD] = rng.uniform(0.15, 0.8) if gender < 0.5 and rng.random() < 0.3 else 0.0
    dress[m.IRIS] = rng.uniform(0.02, 0.12)
    dress[m.COVERED] = float(rng.random() < 0.06)
    dress[m.COVER : m.COVER + 3] = linear((0.86, 0.91, 0.93) if rng.random() < 0.7 else (0.12, 0.12, 0.13))


def _draw_clothes(rng: np.random.Generator, dress: Array) -> None:
    for place in (m.SHIRT, m.SHIRT_SECOND):
        dress[place : place + 3] = draw_colour(rng)
    for place in (m.SHOES, m.SOCKS):  # rarely coloured
        plain = linear(rng.choice((rng.uniform(0.05, 0.25), rng.uniform(0.7, 0.93))) + rng.normal(0, 0.015, 3))
        dress[place : place + 3] = plain if rng.random() < 0.75 else draw_colour(rng)
    kind = rng.random()
    if kind < 0.35:
        trousers = linear(rng.uniform(0.05, 0.2) + rng.normal(0, 0.01, 3))
    elif kind < 0.65:
        trousers = linear(np.array([0.28, 0.36, 0.5]) * rng.uniform(0.5, 1.5))
    else:
        trousers = draw_colour(rng)
    dress[m.TROUSERS : m.TROUSERS + 3] = trousers
    dress[m.TROUSERS_SECOND : m.TROUSERS_SECOND + 3] = np.clip(trousers * rng.uniform(0.5, 1.8), 0, 0.95)
    dress[m.SOLES : m.SOLES + 3] = linear(0.9) if rng.random() < 0.6 else linear(0.12)
    dress[m.WATCH : m.WATCH + 3] = draw_colour(rng)
    dress[m.WATCH_SIDE] = rng.choice((0, 0, 1, -1))
    dress[m.SLEEVE] = rng.choice(
        (rng.uniform(0.12, 0.22), rng.uniform(0.34, 0.5), rng.uniform(0.6, 0.8), 1.02), p=(0.06, 0.44, 0.1, 0.4)
    )
    dress[m.HEM] = rng.uniform(0.035, 0.11)
    dress[m.LEG] = rng.choice((-0.735, rng.uniform(-0.7, -0.62), rng.uniform(-0.42, -0.28)), p=(0.66, 0.16, 0.18))
    dress[m.COLLAR] = rng.uniform(0.505, 0.555) if rng.random() < 0.85 else rng.uniform(0.44, 0.5)
    dress[m.COLLAR_SLOPE] = rng.uniform(0.1, 1.6)
    dress[m.SHOE_TOP] = rng.choice((rng.uniform(-0.775, -0.755), rng.uniform(-0.74, -0.7)), p=(0.8, 0.2))
    dress[m.SOCK_TOP] = rng.choice((-0.9, rng.uniform(-0.74, -0.69), rng.uniform(-0.62, -0.5)), p=(0.3, 0.5, 0.2))
    dress[m.PATTERN] = rng.choice((m.NONE, m.STRIPES, m.HOOPS, m.CHECKS, m.BLOTCHES), p=(0.66, 0.06, 0.1, 0.1, 0.08))
    dress[m.PATTERN_RATE] = rng.uniform(45, 230) if dress[m.PATTERN] != m.BLOTCHES else rng.uniform(25, 70)
    if dress[m.PATTERN] == m.CHECKS:  # mostly low contrast
        dress[m.SHIRT_SECOND : m.SHIRT_SECOND + 3] = dress[m.SHIRT : m.SHIRT + 3] * rng.uniform(0.5, 0.85)
    dress[m.LEG_PATTERN] = rng.choice((m.NONE, m.STRIPES, m.CHECKS, m.BLOTCHES), p=(0.9, 0.04, 0.04, 0.02))
    dress[m.LEG_RATE] = rng.uniform(60, 200)
    dress[m.PRINT] = rng.choice((0, 1, 2, 3), p=(0.66, 0.04, 0.16, 0.14))
    dress[m.PRINT_X], dress[m.PRINT_Z] = rng.normal(0, 0.01), rng.uniform(0.3, 0.42)
    dress[m.PRINT_WIDTH], dress[m.PRINT_HEIGHT] = rng.uniform(0.04, 0.11), rng.uniform(0.02, 0.11)
    dress[m.PRINT_SEED] = rng.uniform(0, 6)
    dress[m.FOLDS], dress[m.FOLD_SEED] = rng.uniform(0.001, 0.005), rng.uniform(0, 6)
    dress[m.ZIP] = float(rng.random() < 0.15)


def make_mesh(person: Person, anatomy: Anatomy) -> tuple[Mesh, Array, Array]:
    """Return the dressed body in the rest pose as a mesh, its vertices and its bone heads."""
    vertices, heads = anatomy.rest(person.body)
    vertices = _dress_vertices(person, anatomy, vertices.astype(np.float64)).astype(np.float32)
    chosen = _faces(person, anatomy)
    faces, parts = anatomy.faces[chosen], anatomy.parts[chosen]
    expressions = np.stack(list(anatomy.expressions.values()))
    moved = np.flatnonzero(np.abs(expressions).max(axis=(0, 2)) > 1e-4)
    mesh = Mesh(
        rest=vertices,
        template=anatomy.template,
        colours=np.zeros_like(vertices),
        bones=anatomy.bones,
        weights=anatomy.weights,
        faces=faces,
        parts=parts,
        closed=int((parts <= Part.EYE).sum()),
        moved=moved.astype(np.int32),
        expressions=expressions[:, moved].astype(np.float32),
    )
    return mesh, vertices, heads


def _faces(person: Person, anatomy: Anatomy) -> Array:
    """Return the indices of this person's triangles, those of the body before those of the hair."""
    middle = anatomy.template[anatomy.faces].mean(axis=1)
    hair = anatomy.parts == Part.HAIR
    front = (middle[:, 1] < -0.03) & (middle[:, 2] < 0.80)
    hanging = hair & ~front & (middle[:, 2] > person.hair_length) if person.hair_length else np.zeros(len(hair), bool)
    return np.concatenate([np.flatnonzero(anatomy.parts <= Part.EYE), np.flatnonzero(hanging)])


def _dress_vertices(person: Person, anatomy: Anatomy, vertices: Array) -> Array:
    """Move vertices outwards to the surface of clothes, shoes and hair."""
    t, dress = anatomy.template, person.dress
    tights = np.zeros(len(t), bool)
    tights[np.unique(anatomy.faces[anatomy.parts == Part.TIGHTS])] = True
    arm = m.arm_coordinates(t)
    shirt = tights & np.where(arm >= 0, arm < dress[m.SLEEVE] + 0.02, t[:, 2] > dress[m.HEM] - 0.01)
    legs = tights & (arm < 0) & (t[:, 2] <= dress[m.HEM]) & (t[:, 2] > max(dress[m.LEG] - 0.01, -0.76))
    shoes = tights & (t[:, 2] < dress[m.SHOE_TOP])
    drawn = anatomy.faces[anatomy.parts == Part.TIGHTS]
    vertices = _smooth_vertices(vertices, drawn, shirt | legs, 10)
    normals = np.zeros(vertices.shape, np.float32)
    compute_normals(vertices.astype(np.float32), anatomy.faces[anatomy.parts <= Part.EYE], normals)
    # Long sleeves end close to the wrist. Sleeves and legs widen towards their ends, shirts towards the hem.
    flare = np.where(
        arm >= 0,
        (0.75 + 0.5 * np.clip(arm / max(dress[m.SLEEVE], 0.1), 0, 1)) * np.clip((1.02 - arm) / 0.12, 0.25, 1),
        0.7 + 0.6 * np.clip((0.4 - t[:, 2]) / 0.35, 0, 1),
    )
    vertices += normals * (shirt * person.loose * flare)[:, None]
    vertices += normals * (legs * person.loose_legs * (0.6 + 0.8 * np.clip((-0.2 - t[:, 2]) / 0.5, 0, 1)))[:, None]
    vertices += normals * (shoes * 0.011)[:, None]
    vertices += normals * (m.creases(t, float(dress[m.FOLD_SEED])) * dress[m.FOLDS] * (shirt | legs))[:, None]
    scalp = t[:, 2] > dress[m.HAIRLINE] - 0.135 * np.clip((t[:, 1] + 0.075) / 0.085, 0, 1) ** 2 - 0.12 * np.maximum(
        np.abs(t[:, 0]) - 0.05, 0
    )
    ear = (np.abs(t[:, 0]) > 0.073) & (t[:, 1] > -0.035) & (t[:, 1] < 0.02) & (t[:, 2] < 0.765)
    scalp &= ~tights & (t[:, 2] > 0.62) & (np.abs(t[:, 0]) < 0.13) & ~ear
    vertices += normals * (scalp * person.hair_volume * np.clip((t[:, 2] - 0.62) / 0.15, 0.4, 1))[:, None]
    return vertices


def _smooth_vertices(vertices: Array, faces: Array, chosen: Array, rounds: int) -> Array:
    """Smooth the chosen vertices: move them halfway to the mean of their neighbours, several times."""
    first = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2], faces[:, 1], faces[:, 2], faces[:, 0]])
    second = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0], faces[:, 0], faces[:, 1], faces[:, 2]])
    count = np.maximum(np.bincount(first, minlength=len(vertices)), 1)
    for _ in range(rounds):
        mean = (
            np.stack([np.bincount(first, vertices[second, axis], len(vertices)) for axis in range(3)], 1)
            / count[:, None]
        )
        vertices = np.where(chosen[:, None], 0.5 * vertices + 0.5 * mean, vertices)
    return vertices
