"""Build the body model: a small linear model of many adult bodies of anny (MakeHuman's data, CC0).

`mmad synth --cache FILE` writes it to a file. Rendering reads that file and needs neither anny nor torch.
"""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import anny
import numpy as np
import torch

from model.arrays import Array
from training.people.body import Part

PEOPLE = 2400
COMPONENTS = 56
SEED = 52
EXPRESSIONS = {
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "jaw": ("jawOpen",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "brows": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
}
# MakeHuman's base mesh: the body's vertices come first, then helper meshes that follow it.
_BODY_VERTICES = 13380
_GROUPS = {"helper-tights": Part.TIGHTS, "helper-l-eye": Part.EYE, "helper-r-eye": Part.EYE, "helper-hair": Part.HAIR}
_LOCAL_SHARE, _LOCAL_SPREAD = 0.12, 0.35  # probability and standard deviation of a local shape change


def build(path: Path) -> str:
    """Write the body model, which takes about a minute, and return a one-line summary."""

    model = anny.Anny(
        topology="anny-full", phenotypes="all", local_changes="all", facial_actions="all"
    ).to(torch.float32)  # fmt: skip
    template = model.template_vertices.numpy()
    faces, parts = _choose_faces(model.faces.numpy(), template, _dominant(model), Path(anny.__path__[0]))
    used = np.unique(faces)
    renumber = np.zeros(len(template), np.int64)
    renumber[used] = np.arange(len(used))
    bones, weights = _strongest(model, used)
    vertices, heads, phenotypes = _people(model, used)
    mean, basis, scores, left_mm = _principal(np.concatenate([vertices, heads], axis=1))
    expressions = _expressions(model, used)
    arrays = {
        "faces": renumber[faces].astype(np.uint16),
        "parts": parts.astype(np.uint8),
        "template": template[used].astype(np.float32),
        "bones": bones.astype(np.uint8),
        "weights": np.rint(weights * 255).astype(np.uint8),
        "bone_names": np.array(model.bone_labels),
        "bone_parents": np.array(model.bone_parents, np.int16),
        "mean": mean.astype(np.float32),
        **_quantised("basis", basis),
        **_quantised("expressions", expressions),
        "expression_names": np.array(list(EXPRESSIONS)),
        "scores": scores.astype(np.float16),
        "phenotypes": phenotypes.astype(np.float16),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return (
        f"{path}: {len(vertices)} people of {COMPONENTS} components, {path.stat().st_size / 2**20:.1f} MiB; "
        f"{left_mm:.1f} mm of their shapes are lost (root mean square)"
    )


def _choose_faces(body: Array, template: Array, dominant: list[str], package: Path) -> tuple[Array, Array]:
    """Return the triangles (n, 3) to render and their parts.

    Hands and head come from the body mesh. The rest is the tights helper, which lies just above the skin and can be
    clothed.
    """
    own = body[(body < _BODY_VERTICES).all(axis=1)]
    bare = np.array([name.startswith(("wrist", "finger", "metacarpal", "neck", "head", "eye")) for name in dominant])
    own = own[bare[own].all(axis=1) | ((template[own, 2] > 0.53) & (np.abs(template[own, 0]) < 0.105)).all(axis=1)]
    chosen, parts = [own], [np.full(len(own), Part.SKIN)]
    for group, triangles in _groups(package / "data/mpfb2/3dobjs/base.obj").items():
        chosen.append(triangles)
        parts.append(np.full(len(triangles), _GROUPS[group]))
    return np.concatenate(chosen), np.concatenate(parts)


def _groups(path: Path) -> dict[str, Array]:
    """Load the triangles of each helper mesh in _GROUPS."""
    triangles: dict[str, list[list[int]]] = {}
    group = ""
    for line in io.StringIO(path.read_text()):
        if line.startswith("g "):
            group = line[2:].strip()
        elif line.startswith("f ") and group in _GROUPS:
            corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
            for second, third in pairwise(corners[1:]):
                triangles.setdefault(group, []).append([corners[0], second, third])
    return {group: np.array(triangles[group]) for group in _GROUPS}


def _dominant(model: Any) -> list[str]:
    """Return the name of the bone with the largest weight of each vertex."""
    strongest = model.vertex_bone_weights.numpy().argmax(axis=1)
    bones = np.take_along_axis(model.vertex_bone_indices.numpy(), strongest[:, None], 1)[:, 0]
    return [model.bone_labels[bone] for bone in bones]


def _strongest(model: Any, used: Array) -> tuple[Array, Array]:
    """Return the four bones (n, 4) with the largest weights of each vertex, and the weights, normalised to sum 1."""
    indices, weights = model.vertex_bone_indices.numpy()[used], model.vertex_bone_weights.numpy()[used]
    order = np.argsort(-weights, axis=1)[:, :4]
    weights = np.take_along_axis(weights, order, 1)
    return np.take_along_axis(indices, order, 1), weights / weights.sum(axis=1, keepdims=True)


def _people(model: Any, used: Array) -> tuple[Array, Array, Array]:
    """Sample adults: vertices (people, n * 3), bone heads (people, bones * 3) and gender, age, weight (people, 3)."""
    rng = np.random.default_rng(SEED)
    vertices, heads, phenotypes = [], [], []
    for _ in range(PEOPLE):
        shape, local = _draw(rng, model.local_change_labels)
        with torch.no_grad():
            coefficients = model.get_phenotype_blendshape_coefficients(
                **{name: torch.tensor([value]) for name, value in shape.items()},
                local_changes={name: torch.tensor([value]) for name, value in local.items()},
            )
            rest = model.get_rest_model(coefficients)
        vertices.append(rest["rest_vertices"][0].numpy()[used].ravel())
        heads.append(rest["rest_bone_heads"][0].numpy().ravel())
        phenotypes.append([shape["gender"], shape["age"], shape["weight"]])
    return np.array(vertices), np.array(heads), np.array(phenotypes)


def _draw(rng: np.random.Generator, labels: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Draw an adult: phenotype values and a few local changes, symmetric in left and right."""
    gender = float(rng.integers(2)) if rng.random() < 0.85 else rng.random()
    origin = rng.dirichlet((0.5, 0.9, 0.7))
    shape = {
        "gender": gender,
        "age": rng.uniform(0.62, 1.0),
        "muscle": rng.uniform(0.3, 0.75),
        "weight": rng.uniform(0.28, 0.85),
        "height": rng.uniform(0.25, 0.75),
        "proportions": rng.uniform(0.35, 0.75),
        "cupsize": rng.uniform(0.3, 0.7),
        "firmness": rng.uniform(0.3, 0.7),
        **dict(zip(("african", "asian", "caucasian"), origin.tolist(), strict=True)),
    }
    local: dict[str, float] = {}
    for label in labels:
        if label.startswith("r-"):
            local[label] = local["l-" + label[2:]]
        elif "pregnant" in label or rng.random() > _LOCAL_SHARE:
            local[label] = 0.0
        else:
            local[label] = float(np.clip(rng.normal(0, _LOCAL_SPREAD), -0.8, 0.8))
    return shape, local


def _principal(values: Array) -> tuple[Array, Array, Array, float]:
    """Principal components: mean, basis (COMPONENTS, n) for unit-variance scores, scores, residual RMS in mm."""
    mean = values.mean(axis=0)
    centred = values - mean
    size, rows = np.linalg.eigh(centred @ centred.T)
    size, rows = size[::-1][:COMPONENTS], rows[:, ::-1][:, :COMPONENTS]
    scores = rows * np.sqrt(len(values))
    basis = (centred.T @ rows / np.sqrt(len(values))).T
    left = np.sqrt(np.square(centred - scores @ basis).mean() * 3)
    return mean, basis, scores, 1000 * float(left)


def _expressions(model: Any, used: Array) -> Array:
    """Return vertex displacements (expressions, n, 3) at full strength."""
    labels = [str(label) for label in model.blendshape_labels]
    shapes = model.blendshapes.numpy()
    return np.stack(
        [
            sum(shapes[next(i for i, label in enumerate(labels) if unit in label)][used] for unit in units)
            for units in EXPRESSIONS.values()
        ]
    )


def _quantised(name: str, values: Array) -> dict[str, Array]:
    """Quantise each entry of the first axis to 16-bit integers with one scale."""
    scale = np.abs(values.reshape(len(values), -1)).max(axis=1) / 32767
    shape = (len(values),) + (1,) * (values.ndim - 1)
    return {name: np.rint(values / scale.reshape(shape)).astype(np.int16), f"{name}_scale": scale.astype(np.float32)}
