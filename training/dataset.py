"""Videos with their labels, of one or several data sets, as frames at the network's rate and size.

A data set is a folder with mmad.json and videos/ (MMA-52's layout, and `mmad synth`'s), or frames/ of `mmad synth
--frames npz` in the place of videos/. Sidecars are read where there are some; with `--frames none` there is nothing
else, for stages that are given joints.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle import InputConfig
from model.errors import VideoError
from model.source import VIDEO_ENDINGS
from model.taxonomy import Taxonomy
from model.video import Limits, Video
from training.files import find_files
from training.instances import Instances
from training.tables import TableError, read_annotations

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


class CorpusError(Exception):
    """A data set that cannot be trained on."""


@dataclass(frozen=True)
class Joints:
    """Where a person's joints are.

    Attributes:
        places: (frames, j, 3): x and y of the picture, 0 to 1, and whether it is seen.
        mirrored: (j,) which joint each is in a mirror image: left and right change places.
        names: of the joints; () where they are not known.
    """

    places: Floats
    mirrored: Integers
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One video: where its frames and joints are, and what happens in it (seconds)."""

    name: str
    path: Path
    sidecar: Path | None
    duration_s: float
    segments: Floats
    labels: Integers

    @property
    def pictured(self) -> bool:
        """Whether there is more to it than joints."""
        return self.path != self.sidecar


class Source(Protocol):
    """Where examples come from."""

    def draw(self, rng: np.random.Generator, number: int) -> Item:
        """The video of the example with this number."""
        ...

    def count_joints(self) -> int:
        """How many joints its sidecars have; 0 without any."""
        ...

    def with_pictures(self) -> "Source":
        """Of its videos, those that have pictures; raises CorpusError if none has."""
        ...

    def digest(self) -> str:
        """Of all that examples are made of but the pictures: a run goes on with the same ones only."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Videos of one subset.

    Attributes:
        items: the videos.
        weights: (items,) how often each is drawn, summing to one.
    """

    items: tuple[Item, ...]
    weights: Floats

    def draw(self, rng: np.random.Generator, number: int) -> Item:
        """See Source: at random, by the weights."""
        return self.items[rng.choice(len(self.items), p=self.weights)]

    def count_joints(self) -> int:
        """See Source."""
        for item in self.items:
            joints = read_joints(item, 1.0, 1)
            if joints is not None:
                return len(joints.mirrored)
        return 0

    def with_pictures(self) -> "Corpus":
        """See Source."""
        shown = np.array([item.pictured for item in self.items])
        if shown.all():
            return self
        if not shown.any():
            raise CorpusError(
                f"{self.items[0].path} and all other videos have joints and no pictures: add videos made by mmad synth "
                "without --frames none, or train only stages with given: joints on these"
            )
        items = tuple(item for item, has in zip(self.items, shown, strict=True) if has)
        return Corpus(items, self.weights[shown] / self.weights[shown].sum())

    def digest(self) -> str:
        """See Source."""
        parts = [part for item in self.items for part in
                 (item.name.encode(), item.segments.tobytes(), item.labels.tobytes())]  # fmt: skip
        return hashlib.sha256(b"\0".join([*parts, self.weights.tobytes()])).hexdigest()

    def truth(self, indices: Sequence[int]) -> Instances:
        """Ground truth of some videos."""
        chosen = [self.items[index] for index in indices]
        counts = [len(item.labels) for item in chosen]
        return Instances(
            videos=distinct_names(chosen),
            durations=np.array([item.duration_s for item in chosen]),
            video=np.repeat(np.arange(len(chosen)), counts),
            segments=np.concatenate([item.segments for item in chosen]).reshape(-1, 2),
            labels=np.concatenate([item.labels for item in chosen]),
            scores=np.ones(sum(counts)),
        )


def distinct_names(items: Sequence[Item]) -> tuple[str, ...]:
    """Names; with their place before them where several data sets have the same ones."""
    names = tuple(item.name for item in items)
    if len(set(names)) == len(names):
        return names
    return tuple(f"{place}-{name}" for place, name in enumerate(names))


def load_corpus(folders: Sequence[Path], taxonomy: Taxonomy, subset: str, rare: float) -> Corpus:
    """Videos of a subset of all folders; a folder written as PATH*WEIGHT is drawn so much more often.

    Raises:
        CorpusError: a folder without annotations or videos, or with videos missing.
    """
    items: list[Item] = []
    weights: list[Floats] = []
    for entry in folders:
        folder, share = _split(entry)
        found = _read_folder(folder, taxonomy, subset)
        if found:
            items += found
            weights.append(share * rarity(found, len(taxonomy.actions), rare))
    if not items:
        raise CorpusError(f"no video of subset {subset!r} in {', '.join(map(str, folders))}")
    joined = np.concatenate(weights)
    return Corpus(tuple(items), joined / joined.sum())


def _split(entry: Path) -> tuple[Path, float]:
    """A folder and its weight."""
    name, star, weight = str(entry).rpartition("*")
    if not star:
        return entry, 1.0
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise CorpusError(
            f"{entry}: {weight!r} is no weight above 0; write FOLDER*2 to draw its videos twice as often"
        )
    return Path(name), share


def _read_folder(folder: Path, taxonomy: Taxonomy, subset: str) -> list[Item]:
    annotations = folder / "mmad.json"
    if not annotations.exists():
        raise CorpusError(f"{folder} has no mmad.json: it must hold mmad.json and videos/ (or frames/)")
    try:
        truth = read_annotations(annotations, taxonomy, subset=subset).instances
    except TableError as error:
        raise CorpusError(str(error)) from error
    files = _files(folder)
    missing = [name for name in truth.videos if name not in files]
    if missing:
        raise CorpusError(
            f"{folder}: {len(missing)} of {len(truth.videos)} videos of {subset!r} are missing, {missing[0]} for one"
        )
    items = []
    for index, name in enumerate(truth.videos):
        mine = truth.video == index
        sidecar = folder / "sidecars" / f"{name}.npz"
        joints = sidecar if sidecar.exists() else None
        duration_s = float(truth.durations[index])
        items.append(Item(name, files[name], joints, duration_s, truth.segments[mine], truth.labels[mine]))
    return items


def _files(folder: Path) -> dict[str, Path]:
    """Video name -> file: frames before videos, at any depth (MMA-52 has a folder a subset); sidecars without both."""
    found = {path.stem: path for path in find_files(folder / "videos", VIDEO_ENDINGS)}
    found |= {path.stem: path for path in (folder / "frames").glob("*.npz")}
    return found or {path.stem: path for path in (folder / "sidecars").glob("*.npz")}


def rarity(items: Sequence[Item], classes: int, exponent: float) -> Floats:
    """How often each video is drawn: by its rarest action."""
    counts = np.maximum(np.bincount(np.concatenate([item.labels for item in items]), minlength=classes), 1)
    factors = (counts.max() / counts) ** exponent
    return np.array([factors[item.labels].max() if len(item.labels) else 1.0 for item in items])


def read_frames(item: Item, config: InputConfig, margin: float, cache: Path | None = None) -> Frames:
    """All frames of a video at the network's rate: (frames, height, width, 3) uint8.

    Videos are cut to their middle and scaled as the detector does it, `margin` times larger; frames are kept as they
    are. With a cache folder a video is decoded once.

    Raises:
        CorpusError: a file that cannot be read.
    """
    if item.path.suffix == ".npz":
        return _read_npz(item, config.fps)
    height, width = (2 * round(side * margin / 2) for side in (config.height, config.width))
    kept = None
    if cache is not None:
        key = f"{item.path.resolve()} {item.path.stat().st_mtime_ns} {config.fps} {height} {width}"
        kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
        if kept.exists():
            return np.asarray(np.load(kept))
    try:
        with item.path.open("rb") as file:
            video = Video(file, _NO_LIMITS)
            try:
                frames = np.stack(list(video.frames(config.fps, width, height)))
            finally:
                video.close()
    except (VideoError, OSError, ValueError) as error:
        raise CorpusError(f"{item.path} cannot be read: {error}") from error
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_name(f".{kept.name}.{id(frames)}.npy")
        np.save(aside, frames)
        aside.replace(kept)
    return frames


def _read_npz(item: Item, fps: float) -> Frames:
    with np.load(item.path, allow_pickle=False) as arrays:
        rate = float(arrays["fps"])
    frames = _mapped(item.path, "frames")
    if rate == fps:
        return np.asarray(frames)
    times = np.arange(max(round(len(frames) / rate * fps), 1)) / fps
    return np.asarray(frames[np.minimum(np.round(times * rate).astype(int), len(frames) - 1)])


def _mapped(path: Path, name: str) -> NDArray[np.generic]:
    """An array of a file of np.savez, of which only what is looked at is read."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        begin = archive.getinfo(f"{name}.npy")
        if begin.compress_type != zipfile.ZIP_STORED:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = read_header[np.lib.format.read_magic(member)](member)
        header = member.tell()
    with path.open("rb") as file:
        file.seek(begin.header_offset + 26)  # lengths of the name and of what else a local header says
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    place = begin.header_offset + 30 + lengths + header
    return np.memmap(path, dtype, "r", place, shape, "F" if fortran else "C")


def read_joints(item: Item, fps: float, frames: int) -> Joints | None:
    """Joints of so many frames at the network's rate; None without a sidecar."""
    if item.sidecar is None:
        return None
    with np.load(item.sidecar, allow_pickle=False) as arrays:
        joints, seen, names = arrays["joints"], arrays["joints_seen"], arrays["joint_names"].tolist()
    record = json.loads((item.sidecar.parent.parent / "records" / f"{item.name}.json").read_text("utf-8"))
    size = np.array(_size_of(record), float)
    times = np.arange(frames) / fps
    index = np.minimum(np.round(times * record["fps"]).astype(int), len(joints) - 1)
    places = np.concatenate([joints[index] / size, seen[index][..., None]], -1)
    return Joints(places, _mirrored(names), tuple(names))


def _mirrored(names: list[str]) -> Integers:
    """(j,) for NAME.left where NAME.right is, and the other way round."""
    others = {"left": "right", "right": "left"}
    swapped = [f"{stem}.{others[side]}" if side in others else name
               for name in names for stem, _, side in (name.rpartition("."),)]  # fmt: skip
    return np.array([names.index(name) for name in swapped])


def _size_of(record: dict[str, Any]) -> tuple[int, int]:
    return int(record["width"]), int(record["height"])
