"""Results in the forms that other programs open: one table of formats, one small function each.

Times are seconds from the video's first frame unless a program counts otherwise.
"""

import csv
import io
import json
import mimetypes
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from service.errors import Problem
from service.results import StoredProposals
from service.schemas import Detection, Label, Result
from service.scores import to_csv, to_npz, track_scores
from service.summary import Interval, merge

# What XML, and so ELAN, cannot hold; a name with a line break would end a comment or a cue of WebVTT.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")

# As BORIS's `Export aggregated events` writes them (its source of 2024, version 8), without independent variables and
# modifiers.
BORIS_COLUMNS = (
    "Observation id", "Observation date", "Description", "Observation type", "Source", "Time offset (s)",
    "Coding duration", "Media duration (s)", "FPS (frame/s)", "Subject",
    "Observation duration by subject by observation", "Behavior", "Behavioral category", "Behavior type", "Start (s)",
    "Stop (s)", "Duration (s)", "Media file name", "Image index start", "Image index stop", "Image file path start",
    "Image file path stop", "Comment start", "Comment stop",
)  # fmt: skip
CSV_COLUMNS = (
    "video", "id", "start_s", "end_s", "duration_s", "score", "action_id", "action_code", "action_name",
    "body_code", "body_name", "overlaps",
)  # fmt: skip
# The challenge's table, as the data set's evaluation reads it.
CHALLENGE_COLUMNS = ("", "video_id", "t_start", "t_end", "class", "score")
CHALLENGE_MEMBER = "prediction.csv"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Analysed:
    """One video's result, ready to be written.

    Attributes:
        video: its name: the job's id, or the file's name without suffix.
        result: the view that the caller wants.
        stored: all proposals, for the formats that take everything.
        source: path or address of the video, where it is known.
        rate: times a second, for scores over time.
    """

    video: str
    result: Result
    stored: StoredProposals
    source: str = ""
    rate: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "video", _NOT_TEXT.sub("\ufffd", self.video))
        object.__setattr__(self, "source", _NOT_TEXT.sub("\ufffd", self.source))

    @property
    def file_name(self) -> str:
        """Of the video, without folders."""
        return PurePath(self.source).name or self.video


@dataclass(frozen=True)
class Format:
    """A form in which results are written.

    Attributes:
        name: what callers ask for.
        media_type: for the HTTP header.
        suffix: of its files, with the dot.
        description: in a few words.
        write: makes a file of its bytes.
        several: whether one file holds several videos, or none.
        needs: libraries that are loaded only when it is written.
    """

    name: str
    media_type: str
    suffix: str
    description: str
    write: Callable[[Sequence[Analysed]], bytes]
    several: bool
    needs: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it can be shown in a terminal."""
        return self.suffix not in (".npz", ".zip", ".png")


def write_export(name: str, videos: Sequence[Analysed]) -> bytes:
    """One file of a format.

    Args:
        name: of the format.
        videos: at least one; exactly one for formats that hold no more.

    Raises:
        Problem: invalid_parameter, for a format that is not known or not for several videos.
    """
    chosen = find_format(name)
    if len(videos) != 1 and not chosen.several:
        raise Problem("invalid_parameter", f"format={name} holds one video a file, not {len(videos)}")
    return chosen.write(videos)


def find_format(name: str) -> Format:
    """A format by its name; raises Problem invalid_parameter naming those that are known."""
    if name not in FORMATS:
        raise Problem("invalid_parameter", f"format={name[:64]} is not known; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def write_json(videos: Sequence[Analysed], *, as_list: bool) -> bytes:
    """The format `json`: a list of results, or the only one."""
    documents = [_named(one, one.result.model_dump(mode="json")) for one in videos]
    return _dump(documents if as_list else documents[0], indent=1)


def _json(videos: Sequence[Analysed]) -> bytes:
    return write_json(videos, as_list=len(videos) != 1)


def _jsonl(videos: Sequence[Analysed]) -> bytes:
    return b"".join(
        _dump(_named(one, detection.model_dump(mode="json")))
        for one in videos
        for detection in one.result.detections
    )


def _named(one: Analysed, document: dict[str, Any]) -> dict[str, Any]:
    return {"video": one.source or one.video, **document}


def _csv(videos: Sequence[Analysed]) -> bytes:
    return _table(
        CSV_COLUMNS,
        (
            (
                one.video, found.id, f"{found.start_s:.3f}", f"{found.end_s:.3f}", f"{found.end_s - found.start_s:.3f}",
                f"{found.score:.4f}", found.action.id, found.action.code, found.action.name, found.body.code,
                found.body.name, " ".join(found.overlaps),
            )
            for one in videos
            for found in one.result.detections
        ),
    )  # fmt: skip


def _frames_csv(videos: Sequence[Analysed]) -> bytes:
    (one,) = videos
    return to_csv(track_scores(one.stored, one.rate)).encode()


def _frames_npz(videos: Sequence[Analysed]) -> bytes:
    (one,) = videos
    return to_npz(track_scores(one.stored, one.rate))


def _vtt(videos: Sequence[Analysed]) -> bytes:
    (one,) = videos
    blocks = ["WEBVTT", f"NOTE {_cue_text(one.video)}"]
    for found in one.result.detections:
        times = f"{_cue_time(found.start_s)} --> {_cue_time(found.end_s)}"
        text = _cue_text(f"{found.action.name} ({found.body.name}) {found.score:.2f}")
        blocks.append(f"{found.id}\n{times}\n{text}")
    return ("\n\n".join(blocks) + "\n").encode()


def _cue_time(time_s: float) -> str:
    minutes, milliseconds = divmod(round(time_s * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _cue_text(text: str) -> str:
    """Without markup; `-->` would begin another cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _eaf(videos: Sequence[Analysed]) -> bytes:
    from pympi.Elan import Eaf, to_string

    (one,) = videos
    eaf = Eaf(author="mmad")
    eaf.remove_tier("default")
    name = quote(one.file_name)
    eaf.add_linked_file(f"file:///{name}", f"./{name}", mimetypes.guess_type(name)[0] or "video/mp4")
    for body, actions in _classes(one.result.detections):
        _add_tier(eaf, body, [interval for _, intervals in actions for interval in intervals])
        for action, intervals in actions:
            _add_tier(eaf, action, intervals)
    text: str = to_string(eaf)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _add_tier(eaf: Any, label: Label, intervals: Iterable[Interval]) -> None:
    """ELAN takes whole milliseconds, no annotation of no length, and none that overlaps another of its tier."""
    tier = f"{label.code} {label.name}"
    eaf.add_tier(tier)
    for start_s, end_s in merge(intervals):
        eaf.add_annotation(tier, round(start_s * 1000), round(end_s * 1000), label.name)


def _classes(detections: Sequence[Detection]) -> list[tuple[Label, list[tuple[Label, list[Interval]]]]]:
    """Body parts, each with its actions, each with its intervals; those without any are left out."""
    bodies = {one.body.id: one.body for one in detections}
    actions = {one.action.id: one for one in detections}
    intervals: dict[int, list[Interval]] = {id: [] for id in actions}
    for one in detections:
        intervals[one.action.id].append((one.start_s, one.end_s))
    return [
        (
            bodies[body],
            [(actions[id].action, intervals[id]) for id in sorted(actions) if actions[id].body.id == body],
        )
        for body in sorted(bodies)
    ]


def _boris(videos: Sequence[Analysed]) -> bytes:
    return _table(BORIS_COLUMNS, (row for one in videos for row in _boris_rows(one)))


def _boris_rows(one: Analysed) -> list[tuple[object, ...]]:
    """In order of time. BORIS pairs starts and stops of a behaviour: one that overlaps itself is merged first."""
    media, name = one.result.media, one.file_name
    events = sorted(
        (start_s, end_s, action, body)
        for body, actions in ((body.name, actions) for body, actions in _classes(one.result.detections))
        for action, intervals in ((action.name, intervals) for action, intervals in actions)
        for start_s, end_s in merge(intervals)
    )
    total = f"{sum(end_s - start_s for start_s, end_s, *_ in events):.3f}"
    duration = f"{media.duration_s:.3f}"
    about = (
        one.video, "", "", "Media file", f"player #1:{name}", 0, duration, duration, f"{media.average_fps:.3f}",
        "No focal subject", total,
    )  # fmt: skip
    return [
        (
            *about, action, body, "STATE", f"{start_s:.3f}", f"{end_s:.3f}", f"{end_s - start_s:.3f}", name,
            _frame(start_s, media.average_fps), _frame(end_s, media.average_fps), "", "", "", "",
        )
        for start_s, end_s, action, body in events
    ]  # fmt: skip


def _frame(time_s: float, fps: float) -> int:
    """Frames that have begun before a time, at the video's average rate."""
    return round(time_s * fps)


def _label_studio(videos: Sequence[Analysed]) -> bytes:
    return _dump([_task(one) for one in videos], indent=1)


def _task(one: Analysed) -> dict[str, Any]:
    """A task with predictions: timelinelabels, one range a region, frames counted from 1, the last one included."""
    fps = one.result.media.average_fps
    regions = []
    for found in one.result.detections:
        first = _frame(found.start_s, fps) + 1
        last = max(first, _frame(found.end_s, fps))
        regions.append(
            {
                "id": found.id,
                "from_name": "timelineLabels",
                "to_name": "video",
                "type": "timelinelabels",
                "value": {
                    "ranges": [{"start": first, "end": last}],
                    "timelinelabels": [found.action.name],
                },
                "score": found.score,
            }
        )
    model = one.result.model
    prediction = {"model_version": f"{model.bundle} {model.version}", "result": regions}
    return {"data": {"video": one.source or one.video}, "predictions": [prediction]}


def _activitynet(videos: Sequence[Analysed]) -> bytes:
    results = {
        one.video: [
            {"label": found.action.name, "score": found.score, "segment": [found.start_s, found.end_s]}
            for found in one.result.detections
        ]
        for one in videos
    }
    return _dump({"version": "VERSION 1.3", "results": results, "external_data": {}}, indent=1)


def _mac_csv(videos: Sequence[Analysed]) -> bytes:
    rows: list[tuple[object, ...]] = []
    for one in videos:
        stored = one.stored
        for (start_s, end_s), label, score in zip(stored.segments, stored.labels, stored.scores, strict=True):
            rows.append((len(rows), one.video, float(start_s), float(end_s), int(label), float(score)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # Dated alike, so that the same proposals make the same file.
        member = zipfile.ZipInfo(CHALLENGE_MEMBER, _EPOCH)
        member.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(member, _table(CHALLENGE_COLUMNS, rows))
    return buffer.getvalue()


def _png(videos: Sequence[Analysed]) -> bytes:
    from service.timeline import draw_timeline

    (one,) = videos
    return draw_timeline(one.video, one.result, one.stored.context.labels, "png")


def _svg(videos: Sequence[Analysed]) -> bytes:
    from service.timeline import draw_timeline

    (one,) = videos
    return draw_timeline(one.video, one.result, one.stored.context.labels, "svg")


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _dump(document: object, indent: int | None = None) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=indent) + "\n").encode()


_CSV, _JSON = "text/csv; charset=utf-8", "application/json"

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("json", _JSON, ".json", "the result, everything in it", _json, True),
        Format("jsonl", "application/jsonl", ".jsonl", "one detection a line", _jsonl, True),
        Format("csv", _CSV, ".csv", "one detection a row", _csv, True),
        Format(
            "frames-csv", _CSV, ".frames.csv", "scores over time, columns as OpenFace's", _frames_csv, False
        ),
        Format("frames-npz", "application/zip", ".npz", "scores over time, NumPy arrays", _frames_npz, False),
        Format("vtt", "text/vtt; charset=utf-8", ".vtt", "WebVTT cues for video players", _vtt, False),
        Format(
            "eaf",
            "application/xml",
            ".eaf",
            "ELAN, a tier for each action and body part",
            _eaf,
            False,
            ("pympi",),
        ),
        Format("boris", _CSV, ".boris.csv", "BORIS, aggregated events", _boris, True),
        Format("label-studio", _JSON, ".label-studio.json", "Label Studio, predictions", _label_studio, True),
        Format("activitynet", _JSON, ".activitynet.json", "ActivityNet's detection JSON", _activitynet, True),
        Format("mac-csv", "application/zip", ".zip", "the challenge's file, no threshold", _mac_csv, True),
        Format("png", "image/png", ".png", "a timeline", _png, False, ("matplotlib",)),
        Format("svg", "image/svg+xml", ".svg", "a timeline, to be scaled", _svg, False, ("matplotlib",)),
    )
}
