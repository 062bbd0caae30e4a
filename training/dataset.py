"""Load labelled videos of one or several data sets as frames at the network's rate and size.

A data set is a folder with mmad.json and videos/ (the layout of MMA-52 and `mmad synth`), frames/ (`mmad synth --frames
npz`), or only sidecars with keypoints (`--frames none`), which are optional in the others.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.arrays import Array, Doubles, Images, Integers
from model.bundle import InputConfig
from model.errors import VideoError
from model.source import VIDEO_ENDINGS
from model.taxonomy import Taxonomy
from model.video import UNLIMITED, Video
from training.files import AnnotationError, find_files, write_aside
from training.instances import Instances, parse_float
from training.tables import read_annotations


class DatasetError(Exception):
    """Raised for a data set that cannot be trained on."""


@dataclass(frozen=True)
class Keypoints:
    """Keypoints (frames, j, 3) of a person: x and y as fractions of the frame, and visibility.

    `mirrored` (j,) is the index of the keypoint on the other side. `names` is () if they are unknown.
    """

    places: Doubles
    mirrored: Integers
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One video: files of its frames and keypoints, and its ground truth segments in seconds."""

    name: str
    path: Path
    sidecar: Path | None
    duration_s: float
    segments: Doubles
    labels: Integers

    @property
    def has_frames(self) -> bool:
        """True if the sample has frames, False if it has only keypoints."""
        return self.path != self.sidecar


@dataclass(frozen=True)
class VideoDataset:
    """Videos of one subset, and their sampling probabilities (samples,)."""

    samples: tuple[Sample, ...]
    weights: Doubles

    def draw(self, rng: np.random.Generator) -> Sample:
        """Sample a video by the weights."""
        return self.samples[rng.choice(len(self.samples), p=self.weights)]

    def count_keypoints(self) -> int:
        """Return the number of keypoints in the sidecars, 0 if there are none."""
        for sample in self.samples:
            if (keypoints := read_keypoints(sample, 1.0, 1)) is not None:
                return len(keypoints.mirrored)
        return 0

    def with_frames(self) -> "VideoDataset":
        """Return only the videos with frames. Raises DatasetError if there are none."""
        selected = np.array([sample.has_frames for sample in self.samples])
        if selected.all():
            return self
        if not selected.any():
            raise DatasetError(
                f"{self.samples[0].path} and all other videos have keypoints and no pictures: add videos made by mmad "
                "synth without --frames none, or train only stages with given: keypoints on these"
            )
        samples = tuple(sample for sample, has_frames in zip(self.samples, selected, strict=True) if has_frames)
        return VideoDataset(samples, self.weights[selected] / self.weights[selected].sum())

    def digest(self) -> str:
        """Return a SHA-256 of names, labels and weights, to check that a run is resumed with the same videos."""
        parts: list[bytes] = []
        for sample in self.samples:
            parts += [sample.name.encode(), sample.segments.tobytes(), sample.labels.tobytes()]
        return hashlib.sha256(b"\0".join([*parts, self.weights.tobytes()])).hexdigest()

    def truth(self, indices: Sequence[int]) -> Instances:
        """Return the ground truth of the videos with these indices."""
        chosen = [self.samples[index] for index in indices]
        truth = make_truth(chosen, [sample.duration_s for sample in chosen])
        return replace(truth, videos=distinct_names(chosen))


def make_truth(samples: Sequence[Sample], durations_s: Sequence[float]) -> Instances:
    """Return the ground truth of samples of these durations."""
    counts = [len(sample.labels) for sample in samples]
    return Instances(
        videos=tuple(sample.name for sample in samples),
        durations=np.array(durations_s, float),
        video=np.repeat(np.arange(len(samples)), counts),
        segments=np.concatenate([sample.segments for sample in samples]).reshape(-1, 2),
        labels=np.concatenate([sample.labels for sample in samples]),
        scores=np.ones(sum(counts)),
    )


def spread(count: int, limit: int | None) -> list[int]:
    """Return `limit` of `count` indices at equal intervals; all of them for 0 or None."""
    return [int(index) for index in np.linspace(0, count - 1, min(limit or count, count))]


def distinct_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the names of the samples, prefixed with their index if several data sets have the same names."""
    names = tuple(sample.name for sample in samples)
    if len(set(names)) == len(names):
        return names
    return tuple(f"{index}-{name}" for index, name in enumerate(names))


def load_dataset(
    folders: Sequence[Path], taxonomy: Taxonomy, subset: str, class_balance_exponent: float
) -> VideoDataset:
    """Load the videos of a subset; PATH*WEIGHT multiplies the sampling weight of a folder. Raises DatasetError."""
    samples: list[Sample] = []
    weights: list[Doubles] = []
    for folder, factor in map(_split_weight, folders):
        if loaded := _read_folder(folder, taxonomy, subset):
            samples += loaded
            weights.append(factor * rarity_weights(loaded, len(taxonomy.actions), class_balance_exponent))
    if not samples:
        raise DatasetError(f"no video of subset {subset!r} in {', '.join(map(str, folders))}")
    joined = np.concatenate(weights)
    return VideoDataset(tuple(samples), joined / joined.sum())


def _split_weight(entry: Path) -> tuple[Path, float]:
    name, star, weight = str(entry).rpartition("*")
    if not star:
        return entry, 1.0
    factor = parse_float(weight)
    if not 0 < factor < math.inf:
        raise DatasetError(
            f"{entry}: {weight!r} is no weight above 0; write FOLDER*2 to draw its videos twice as often"
        )
    return Path(name), factor


def _read_folder(folder: Path, taxonomy: Taxonomy, subset: str) -> list[Sample]:
    annotations = folder / "mmad.json"
    if not annotations.exists():
        raise DatasetError(f"{folder} has no mmad.json: it must hold mmad.json and videos/ (or frames/)")
    try:
        truth = read_annotations(annotations, taxonomy, subset=subset).instances
    except AnnotationError as error:
        raise DatasetError(str(error)) from error
    files = _find_video_files(folder)
    missing = [name for name in truth.videos if name not in files]
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(truth.videos)} videos of {subset!r} are missing, {missing[0]} for one"
        )
    samples = []
    for index, name in enumerate(truth.videos):
        sidecar = folder / "sidecars" / f"{name}.npz"
        own = truth[truth.video == index]
        keypoints, duration_s = sidecar if sidecar.exists() else None, float(truth.durations[index])
        samples.append(Sample(name, files[name], keypoints, duration_s, own.segments, own.labels))
    return samples


def _find_video_files(folder: Path) -> dict[str, Path]:
    """Return the file of each video by name: frames, else the video (in any folder, as in MMA-52), else the sidecar."""
    files = {path.stem: path for path in find_files(folder / "videos", VIDEO_ENDINGS)}
    files |= {path.stem: path for path in (folder / "frames").glob("*.npz")}
    return files or {path.stem: path for path in (folder / "sidecars").glob("*.npz")}


def rarity_weights(samples: Sequence[Sample], classes: int, exponent: float) -> Doubles:
    """Return the sampling weight of each video, (frequency of the most frequent action / of its rarest)**exponent."""
    counts = np.maximum(np.bincount(np.concatenate([sample.labels for sample in samples]), minlength=classes), 1)
    factors = (counts.max() / counts) ** exponent
    return np.array([factors[sample.labels].max() if len(sample.labels) else 1.0 for sample in samples])


def read_frames(sample: Sample, config: InputConfig, margin: float, cache: Path | None = None) -> Images:
    """Read all frames of a video at the network's frame rate, (frames, height, width, 3) uint8.

    Videos are centre-cropped and scaled as in the detector, but `margin` times larger; stored frames are not resized.
    With a cache folder, each video is decoded once. Raises DatasetError if the file cannot be read.
    """
    if sample.path.suffix == ".npz":
        return _read_npz(sample, config.fps)
    height, width = (2 * round(side * margin / 2) for side in (config.height, config.width))
    cached = None
    if cache is not None:
        key = f"{sample.path.resolve()} {sample.path.stat().st_mtime_ns} {config.fps} {height} {width}"
        cached = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
        if cached.exists():
            return np.asarray(np.load(cached))
    try:
        with sample.path.open("rb") as file, closing(Video(file, UNLIMITED)) as video:
            frames = np.stack(list(video.frames(config.fps, width, height)))
    except (VideoError, OSError, ValueError) as error:
        raise DatasetError(f"{sample.path} cannot be read: {error}") from error
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(cached) as temporary:
            np.save(temporary, frames)
    return frames


def _read_npz(sample: Sample, fps: float) -> Images:
    with np.load(sample.path, allow_pickle=False) as arrays:
        rate = float(arrays["fps"])
    frames = _map_array(sample.path, "frames")
    if rate == fps:
        return np.asarray(frames)
    times = np.arange(max(round(len(frames) / rate * fps), 1)) / fps
    return np.asarray(frames[np.minimum(np.round(times * rate).astype(int), len(frames) - 1)])


def _map_array(path: Path, name: str) -> Array:
    """Memory-map an array of an uncompressed .npz file; a compressed one is read into memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[np.lib.format.read_magic(member)](member)
        header = member.tell()
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the name and of the extra field in the local header
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    offset = info.header_offset + 30 + lengths + header
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def read_keypoints(sample: Sample, fps: float, frames: int) -> Keypoints | None:
    """Read the keypoints of `frames` frames at `fps`; None without a sidecar."""
    if sample.sidecar is None:
        return None
    with np.load(sample.sidecar, allow_pickle=False) as arrays:
        if "keypoints" not in arrays:
            raise DatasetError(f"{sample.sidecar} was made by an older mmad synth: make the data set again")
        keypoints, visible = arrays["keypoints"], arrays["keypoints_visible"]
        names = arrays["keypoint_names"].tolist()
    record = json.loads((sample.sidecar.parent.parent / "records" / f"{sample.name}.json").read_text("utf-8"))
    size = np.array([record["width"], record["height"]], float)
    times = np.arange(frames) / fps
    index = np.minimum(np.round(times * record["fps"]).astype(int), len(keypoints) - 1)
    positions = np.concatenate([keypoints[index] / size, visible[index][..., None]], -1)
    return Keypoints(positions, _find_mirrored(names), tuple(names))


def _find_mirrored(names: list[str]) -> Integers:
    """Return the index of NAME.right for NAME.left and vice versa, (j,); other keypoints keep their index."""
    others = {"left": "right", "right": "left"}
    stems = [name.rpartition(".") for name in names]
    return np.array([names.index(f"{stem}.{others[side]}" if side in others else f"{stem}{dot}{side}")
                     for stem, dot, side in stems])  # fmt: skip
