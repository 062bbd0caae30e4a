"""Finds the videos named by a command's arguments: files, and all videos in folders."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmad.terminal import print_status


class Video(NamedTuple):
    """A video file and its name in results."""

    path: Path
    name: str


def find_videos(arguments: Sequence[Path]) -> list[Video]:
    """Return files as they are, and for each folder the videos in it at any depth: sorted, without duplicates.

    Hidden files and folders are ignored. A message on standard error names folders without videos.
    """
    known = {os.path.realpath(path) for path in arguments if not path.is_dir()}
    matches: list[tuple[Path, Path | None]] = []  # each with the folder argument that contains it
    for argument in arguments:
        if not argument.is_dir():
            matches.append((argument, None))
            continue
        for path in _walk(argument):
            if (real := os.path.realpath(path)) not in known:
                known.add(real)
                matches.append((path, argument))
    return _name_videos(matches)


def _walk(folder: Path) -> list[Path]:
    """Return the files of a folder that have a video's suffix, sorted."""
    from model.source import VIDEO_ENDINGS
    from training.files import is_hidden

    paths = []
    for root, folders, names in os.walk(folder, onerror=lambda error: print_status(f"passed over: {error}", "yellow")):
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        paths += [
            Path(root, name)
            for name in names
            if not is_hidden(Path(name)) and Path(name).suffix.lower() in VIDEO_ENDINGS
        ]
    if not paths:
        print_status(f"{folder}: no video in this folder; videos end in {' '.join(VIDEO_ENDINGS)}", "yellow")
    return sorted(paths)


def _name_videos(matches: Sequence[tuple[Path, Path | None]]) -> list[Video]:
    """Name videos by their stems, or by their paths within the folder if stems are not unique."""
    rules: tuple[Callable[[Path, Path], Path], ...] = (
        lambda path, _: Path(path.stem),
        lambda path, folder: path.relative_to(folder).with_suffix(""),
        lambda path, folder: path.relative_to(folder),
        lambda path, folder: folder.resolve().name / path.relative_to(folder),
    )
    videos: list[Video] = []
    for rule in rules:
        videos = [
            Video(path, path.stem if folder is None else rule(path, folder).as_posix()) for path, folder in matches
        ]
        # Some file systems ignore case and Unicode normalization in file names.
        if len({unicodedata.normalize("NFC", video.name).casefold() for video in videos}) == len(videos):
            break
    return videos
