"""Which videos a command's arguments name: files, and folders with all videos in them."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmad.terminal import tell


class Video(NamedTuple):
    """A video file and its name in results."""

    path: Path
    name: str


class _Found(NamedTuple):
    """A video file and the folder argument it was found in; None for a file argument."""

    path: Path
    folder: Path | None


def find_videos(arguments: Sequence[Path]) -> list[Video]:
    """The files among the arguments, and the videos of the folders among them: at any depth, sorted, each once.

    Hidden files and folders are passed over. A note on standard error tells of folders without videos.
    """
    seen = {os.path.realpath(path) for path in arguments if not path.is_dir()}
    found: list[_Found] = []
    for argument in arguments:
        if not argument.is_dir():
            found.append(_Found(argument, None))
            continue
        for path in _walk(argument):
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                found.append(_Found(path, argument))
    return _named(found)


def _walk(folder: Path) -> list[Path]:
    """Videos of a folder, by the endings of their names."""
    from model.source import VIDEO_ENDINGS
    from training.files import is_hidden

    found = []
    for root, folders, names in os.walk(
        folder, onerror=lambda error: tell(f"passed over: {error}", "yellow")
    ):
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        found += [
            Path(root, name)
            for name in names
            if not is_hidden(Path(name)) and Path(name).suffix.lower() in VIDEO_ENDINGS
        ]
    if not found:
        tell(f"{folder}: no video in this folder; videos end in {' '.join(VIDEO_ENDINGS)}", "yellow")
    return sorted(found)


def _named(found: Sequence[_Found]) -> list[Video]:
    """Name videos by their stems, or by their paths within the folder if stems are not unique."""
    ways: tuple[Callable[[Path, Path], Path], ...] = (
        lambda path, _: Path(path.stem),
        lambda path, folder: path.relative_to(folder).with_suffix(""),
        lambda path, folder: path.relative_to(folder),
        lambda path, folder: folder.resolve().name / path.relative_to(folder),
    )
    videos: list[Video] = []
    for way in ways:
        videos = [
            Video(path, path.stem if folder is None else way(path, folder).as_posix())
            for path, folder in found
        ]
        # Some file systems ignore case and Unicode normalization in file names.
        if len({unicodedata.normalize("NFC", video.name).casefold() for video in videos}) == len(videos):
            break
    return videos
