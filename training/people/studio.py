"""Makes a data set: many videos by many processes, with labels, resumable, the same bytes whoever makes them.

out/videos/synth000000.mp4    or out/frames/synth000000.npz, or neither
out/sidecars/synth000000.npz  boxes, joints and visible parts per frame
out/records/synth000000.json  a video's labels; written last, so that what has one is whole
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
from training.people.annotations import Record, describe, name_of, write_json, write_sidecar, write_tables
from training.people.body import load_anatomy
from training.people.camera.effects import develop, mask_faces, occlude
from training.people.camera.footage import write_frames, write_video
from training.people.film import EFFECTS, Film, Recipe, generator, make_film
from training.people.options import Device, Storage
from training.people.render import cpu
from training.people.render.shot import Shot
from training.tables import standard_labels

QUALITIES = (19.0, 33.0)  # x264's constant rate factor, drawn for each video
_PICTURE_KINDS = (".jpg", ".jpeg", ".png", ".webp")
_WALL_PIXELS = 512  # a back wall's picture is not kept larger
_PLACES: dict[Storage, tuple[str, ...]] = {
    Storage.MP4: ("videos",), Storage.NPZ: ("frames",), Storage.NONE: ()
}  # fmt: skip


class StudioError(Exception):
    """A data set that cannot be made as asked for."""


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        recipe: of the videos; its pictures are loaded from the folder `pictures`, if any.
        out: folder. storage: of frames. videos: how many.
        device: that renders; pictures differ in rounding alone.
    """

    recipe: Recipe
    out: Path
    storage: Storage
    videos: int
    pictures: Path | None = None
    device: Device = Device.CPU

    def settings(self) -> dict[str, Any]:
        """What must be the same when a run is taken up again."""
        recipe = asdict(self.recipe)
        recipe.pop("pictures")
        recipe["styles"] = sorted(recipe["styles"])
        pictures = load_pictures(self.pictures) if self.pictures is not None else ()
        digest = (
            hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16]
            if pictures
            else ""
        )
        return recipe | {"storage": self.storage.value, "pictures": digest, "version": version("mmad")}


Progress = Callable[[int, int], None]  # videos and frames made so far


def render_film(
    film: Film, recipe: Recipe, device: Device = Device.CPU
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames (frames, height, width, 3) as the data set would hold them, before coding."""
    rng = generator(recipe.seed, film.number, EFFECTS)
    frames = _rendered(film.shot, device)
    frames, _ = occlude(frames, film.look, rng)
    frames = develop(frames, film.look, rng)
    return mask_faces(frames, film.head_box, film.look, rng)


def _rendered(shot: Shot, device: Device) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if device is Device.CPU:
        return np.stack(list(cpu.render(shot)))
    from training.people.render.cuda import Renderer  # needs a card

    return np.asarray(Renderer(shot).render().copy_to_host())


def produce(order: Order, jobs: int, progress: Progress) -> int:
    """Make what is missing of a data set, then its tables; returns how many frames were rendered now.

    Raises:
        StudioError: the folder holds another data set, a process died, or there is no card to render on.
    """
    _check_device(order.device)
    with _alone(order.out):
        return _produce(order, jobs, progress)


def _produce(order: Order, jobs: int, progress: Progress) -> int:
    _open_folder(order)
    missing = [number for number in range(order.videos) if not _record_path(order.out, number).exists()]
    done, frames = order.videos - len(missing), 0
    progress(done, frames)
    for made in _make_all(order, missing, jobs):
        done, frames = done + 1, frames + made
        progress(done, frames)
    records = {
        name_of(n): json.loads(_record_path(order.out, n).read_text("utf-8")) for n in range(order.videos)
    }
    write_tables(order.out, records, standard_labels())
    return frames


def load_pictures(folder: Path) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], ...]:
    """All pictures of a folder, small enough for walls, in the order of their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURE_KINDS)
    if not paths:
        raise StudioError(f"{folder} holds no picture ({', '.join(_PICTURE_KINDS)})")
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
def _alone(out: Path) -> Iterator[None]:
    """One run at a time makes a folder's videos."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudioError(
                f"another run is writing to {out}: wait for it, or take another --out"
            ) from error
        yield


def _check_device(device: Device) -> None:
    if device is Device.CUDA:
        from numba import cuda

        if not cuda.is_available():
            raise StudioError("device is cuda, and Numba finds no CUDA card here: render with --device cpu")


def _open_folder(order: Order) -> None:
    """Folders, and the settings that all videos here share; what a killed run left half written goes."""
    path = order.out / "synth.json"
    settings = json.loads(json.dumps(order.settings()))
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise StudioError(
                f"{order.out} was begun with {name} {before.get(name)!r}, now it is {settings[name]!r}: "
                "take another --out, or the settings in its synth.json to go on"
            )
    for name in ("records", "sidecars", *_PLACES[order.storage]):
        (order.out / name).mkdir(exist_ok=True)
        for half in (order.out / name).glob(".synth*"):
            half.unlink()
    write_json(path, settings)


def _record_path(out: Path, number: int) -> Path:
    return out / "records" / f"{name_of(number)}.json"


def _make_all(order: Order, numbers: list[int], jobs: int) -> Iterator[int]:
    """Frames of each video as it gets ready, in any order."""
    if jobs == 1 or len(numbers) <= 1:
        for number in numbers:
            yield make_video(order, number)
        return
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded(),
        ProcessPoolExecutor(jobs, context, initializer=_die_with, initargs=(os.getpid(),)) as pool,
    ):
        waiting: set[Future[int]] = set()
        rest = iter(numbers)
        try:
            while True:
                for number in rest:
                    waiting.add(pool.submit(make_video, order, number))
                    if len(waiting) >= 2 * jobs:  # no more than that is lost when one stops
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


def _die_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started meanwhile compute with one thread each: there is one for every core."""
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


def make_video(order: Order, number: int) -> int:
    """Make one video, write it with its sidecar and record; returns its frames."""
    recipe = _recipe(order)
    film = make_film(recipe, number, load_anatomy())
    name = name_of(number)
    if order.storage is not Storage.NONE:
        _write_pictures(order, film, recipe)
    write_sidecar(order.out / "sidecars" / f"{name}.npz", film)
    record: Record = describe(film, _taxonomy())
    write_json(_record_path(order.out, number), record)
    return len(film.shot)


def _write_pictures(order: Order, film: Film, recipe: Recipe) -> None:
    frames = render_film(film, recipe, order.device)
    name = name_of(film.number)
    if order.storage is Storage.MP4:
        quality = generator(recipe.seed, film.number, EFFECTS + 100).uniform(*QUALITIES)
        write_video(order.out / "videos" / f"{name}.mp4", frames, recipe.fps, quality)
    else:
        write_frames(order.out / "frames" / f"{name}.npz", frames, recipe.fps)


@cache
def _taxonomy() -> Taxonomy:
    return standard_labels()


@cache
def _recipe(order: Order) -> Recipe:
    if order.pictures is None:
        return order.recipe
    return Recipe(**{**vars(order.recipe), "pictures": load_pictures(order.pictures)})
