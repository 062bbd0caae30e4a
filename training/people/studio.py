"""Generate a data set of videos and labels in parallel processes; resumable and reproducible byte for byte.

out/videos/synth000000.mp4    or out/frames/synth000000.npz, or neither
out/sidecars/synth000000.npz  boxes, keypoints and visible parts per frame
out/records/synth000000.json  labels of a video; written last: a video with a record is complete
out/mmad.json train.csv val.csv (or test.csv) labels.json synth.json
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.taxonomy import Taxonomy
from training.people.annotations import Record, describe, format_video_name, write_json, write_sidecar, write_tables
from training.people.body import load_anatomy
from training.people.camera.effects import develop, mask_faces, occlude
from training.people.camera.footage import write_frames, write_video
from training.people.film import EFFECTS, Film, Recipe, generator, make_film
from training.people.options import Device, Storage
from training.people.render import cpu
from training.people.render.shot import Shot
from training.tables import standard_labels

QUALITIES = (19.0, 33.0)  # x264's constant rate factor, drawn for each video
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_WALL_PIXELS = 512  # maximum side of a back wall's picture
_FRAME_FOLDERS: dict[Storage, tuple[str, ...]] = {
    Storage.MP4: ("videos",), Storage.NPZ: ("frames",), Storage.NONE: ()
}  # fmt: skip


class StudioError(Exception):
    """The data set cannot be generated."""


@dataclass(frozen=True)
class DatasetSpec:
    """Specification of a data set to generate.

    Attributes:
        recipe: settings of the videos; its pictures are loaded from the folder `pictures`, if given.
        out: output folder.
        storage: format of the frames.
        videos: number of videos.
        pictures: folder of images for back walls.
        device: renders the frames; devices differ only in rounding.
    """

    recipe: Recipe
    out: Path
    storage: Storage
    videos: int
    pictures: Path | None = None
    device: Device = Device.CPU

    def settings(self) -> dict[str, Any]:
        """Return the settings that must not change when a run is resumed."""
        recipe = asdict(self.recipe)
        recipe.pop("pictures")
        recipe["styles"] = sorted(recipe["styles"])
        pictures = load_pictures(self.pictures) if self.pictures is not None else ()
        digest = (
            hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16] if pictures else ""
        )
        return recipe | {"storage": self.storage.value, "pictures": digest, "version": version("mmad")}


Progress = Callable[[int, int], None]  # called with the numbers of videos and frames so far


def render_film(film: Film, recipe: Recipe, device: Device = Device.CPU) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Render frames (frames, height, width, 3) with all effects, before video coding."""
    rng = generator(recipe.seed, film.number, EFFECTS)
    frames = _render_shot(film.shot, device)
    frames, _ = occlude(frames, film.effects, rng)
    frames = develop(frames, film.effects, rng)
    return mask_faces(frames, film.head_box, film.effects, rng)


def _render_shot(shot: Shot, device: Device) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if device is Device.CPU:
        return np.stack(list(cpu.render(shot)))
    from training.people.render.cuda import Renderer  # needs a GPU

    return np.asarray(Renderer(shot).render().copy_to_host())


def produce(spec: DatasetSpec, jobs: int, progress: Progress) -> int:
    """Generate the missing videos of a data set, then its tables; return the number of frames rendered in this run.

    Raises:
        StudioError: the folder holds another data set, another run writes to it, a process died, or no GPU was found.
    """
    _check_device(spec.device)
    with _lock_folder(spec.out):
        return _produce(spec, jobs, progress)


def _produce(spec: DatasetSpec, jobs: int, progress: Progress) -> int:
    _open_folder(spec)
    missing = [number for number in range(spec.videos) if not _record_path(spec.out, number).exists()]
    done, frames = spec.videos - len(missing), 0
    progress(done, frames)
    for made in _make_all(spec, missing, jobs):
        done, frames = done + 1, frames + made
        progress(done, frames)
    records = {
        format_video_name(n): json.loads(_record_path(spec.out, n).read_text("utf-8")) for n in range(spec.videos)
    }
    write_tables(spec.out, records, standard_labels())
    return frames


def load_pictures(folder: Path) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], ...]:
    """Load all pictures of a folder, sorted by name and scaled down for walls."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURE_SUFFIXES)
    if not paths:
        raise StudioError(f"{folder} holds no picture ({', '.join(_PICTURE_SUFFIXES)})")
    pictures = []
    for path in paths:
        try:
            picture = Image.open(path).convert("RGB")
        except OSError as error:
            raise StudioError(f"{path} cannot be read as a picture: remove it or save it anew") from error
        picture.thumbnail((_WALL_PIXELS, _WALL_PIXELS))
        pictures.append(np.asarray(picture))
    return tuple(pictures)


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """Lock the output folder; raise StudioError if another run holds the lock."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudioError(f"another run is writing to {out}: wait for it, or take another --out") from error
        yield


def _check_device(device: Device) -> None:
    if device is Device.CUDA:
        from numba import cuda

        if not cuda.is_available():
            raise StudioError("device is cuda, and Numba finds no CUDA card here: render with --device cpu")


def _open_folder(spec: DatasetSpec) -> None:
    """Create the folders, check or write the settings, and delete temporary files of a killed run."""
    path = spec.out / "synth.json"
    settings = json.loads(json.dumps(spec.settings()))
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise StudioError(
                f"{spec.out} was begun with {name} {before.get(name)!r}, now it is {settings[name]!r}: "
                "take another --out, or the settings in its synth.json to go on"
            )
    for name in ("records", "sidecars", *_FRAME_FOLDERS[spec.storage]):
        (spec.out / name).mkdir(exist_ok=True)
        for partial in (spec.out / name).glob(".synth*"):
            partial.unlink()
    write_json(path, settings)


def _record_path(out: Path, number: int) -> Path:
    return out / "records" / f"{format_video_name(number)}.json"


def _make_all(spec: DatasetSpec, numbers: list[int], jobs: int) -> Iterator[int]:
    """Yield the number of frames of each finished video, in any order."""
    if jobs == 1 or len(numbers) <= 1:
        for number in numbers:
            yield make_video(spec, number)
        return
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded(),
        ProcessPoolExecutor(jobs, context, initializer=_exit_with_parent, initargs=(os.getpid(),)) as pool,
    ):
        waiting: set[Future[int]] = set()
        rest = iter(numbers)
        try:
            while True:
                for number in rest:
                    waiting.add(pool.submit(make_video, spec, number))
                    if len(waiting) >= 2 * jobs:  # bounds the work in flight
                        break
                if not waiting:
                    return
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        except BrokenProcessPool as error:
            raise StudioError(
                "a process died, perhaps for want of memory: run the same command again to go on, with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _exit_with_parent(parent: int) -> None:
    """Exit this process when its parent dies, even by SIGKILL."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Make processes started inside the block use one thread each, as there is one process per core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def make_video(spec: DatasetSpec, number: int) -> int:
    """Generate one video, write it with its sidecar and record, and return its number of frames."""
    recipe = _recipe(spec)
    film = make_film(recipe, number, load_anatomy())
    name = format_video_name(number)
    if spec.storage is not Storage.NONE:
        _write_footage(spec, film, recipe)
    write_sidecar(spec.out / "sidecars" / f"{name}.npz", film)
    record: Record = describe(film, _taxonomy())
    write_json(_record_path(spec.out, number), record)
    return len(film.shot)


def _write_footage(spec: DatasetSpec, film: Film, recipe: Recipe) -> None:
    frames = render_film(film, recipe, spec.device)
    name = format_video_name(film.number)
    if spec.storage is Storage.MP4:
        quality = generator(recipe.seed, film.number, EFFECTS + 100).uniform(*QUALITIES)
        write_video(spec.out / "videos" / f"{name}.mp4", frames, recipe.fps, quality)
    else:
        write_frames(spec.out / "frames" / f"{name}.npz", frames, recipe.fps)


@cache
def _taxonomy() -> Taxonomy:
    return standard_labels()


@cache
def _recipe(spec: DatasetSpec) -> Recipe:
    if spec.pictures is None:
        return spec.recipe
    return Recipe(**{**vars(spec.recipe), "pictures": load_pictures(spec.pictures)})
