"""Rendered videos with known segments, and their annotation files."""

from pathlib import Path

from pympi.Elan import Eaf

from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.tables import standard_labels

TAXONOMY = standard_labels()
CODES = [action.code for action in TAXONOMY.actions]
FPS = 10
SEGMENTS = {  # start and end in s, on frame boundaries, and label
    "synth000000": [(0.5, 1.5, 9), (1.0, 2.0, 43)],
    "synth000001": [(0.2, 1.0, 9)],
    "synth000002": [(0.3, 1.8, 26)],
    "synth000003": [(0.0, 1.2, 43), (1.2, 2.4, 26)],
    "synth000004": [(0.4, 1.1, 9), (0.4, 1.1, 26)],
    "synth000005": [],
}


def render_videos(folder: Path) -> Path:
    """Render a video for each entry of SEGMENTS; returns their folder."""
    people = People(seed=3, fps=float(FPS), height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(people, folder, Storage.MP4, len(SEGMENTS)), 1, lambda done, count: None)
    return folder / "videos"


def write_eaf(path: Path, segments, media: str | None = None, origin_ms: int | None = None, tier: str = "x") -> None:
    """Write segments (start in s, end in s, label) as an ELAN file."""
    eaf = Eaf()
    eaf.remove_tier("default")
    eaf.add_tier(tier)
    if media is not None:
        eaf.add_linked_file(media, mimetype="video/mp4", time_origin=origin_ms, relpath=f"./{Path(media).name}")
    for start_s, end_s, label in segments:
        eaf.add_annotation(tier, round(start_s * 1000), round(end_s * 1000), label)
    eaf.to_file(str(path))


def write_eafs(folder: Path) -> Path:
    folder.mkdir()
    for name, segments in SEGMENTS.items():
        write_eaf(folder / f"{name}.eaf", [(start, end, CODES[label]) for start, end, label in segments])
    return folder


def write_table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(["video,start_s,end_s,action", *lines]) + "\n")
    return path
