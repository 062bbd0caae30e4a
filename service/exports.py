"""Results in the forms that other programs open: one table of formats, one small function each.

Times are seconds from the video's first frame. What is shown beside a player (EAF, WebVTT, BORIS, Label Studio) is on
the player's clock, which is `media.start_offset_s` ahead.
"""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from service.elan import write_eaf
from service.errors import Problem
from service.results import StoredProposals
from service.schemas import EafScores, Result
from service.scores import to_csv, to_npz, track_scores
from service.tracks import make_tracks, player_ms

# What XML, and so ELAN, cannot hold; a name with a line break would end a comment or a cue of WebVTT.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
# Bytes of a file's name that are not UTF-8, as Python holds them.
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")

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
        eaf_scores: where ELAN's file has the scores: in dependent tiers, or in the annotations' values.
    """

    video: str
    result: Result
    stored: StoredProposals
    source: str = ""
    rate: float = 5.0
    eaf_scores: EafScores = "tier"

    def __post_init__(self) -> None:
        object.__setattr__(self, "video", readable(self.video))
        object.__setattr__(self, "source", readable(self.source))

    @property
    def file_name(self) -> str:
        """Of the video, without folders."""
        return PurePath(self.source).name or self.video


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are read as Windows-1252, control characters are escaped."""
    text = _NOT_UTF8.sub(
        lambda byte: bytes([ord(byte[0]) - 0xDC00]).decode("cp1252", "backslashreplace"), name
    )
    return _NOT_TEXT.sub(
        lambda mark: f"\\x{ord(mark[0]):02x}" if ord(mark[0]) < 256 else f"\\u{ord(mark[0]):04x}", text
    )


def find_clash(names: Iterable[str], *, any_case: bool) -> list[str]:
    """The first group of names that exports could not tell apart; empty if all differ.

    Args:
        names: of videos.
        any_case: whether upper and lower case are one, as in files of macOS and Windows.
    """
    groups: dict[str, list[str]] = {}
    for name in map(readable, names):
        key = unicodedata.normalize("NFC", name)
        groups.setdefault(key.lower() if any_case else key, []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


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
        start_ms, end_ms = (player_ms(time_s, one.result.media) for time_s in (found.start_s, found.end_s))
        times = f"{_cue_time(start_ms)} --> {_cue_time(end_ms)}"
        text = _cue_text(f"{found.action.name} ({found.body.name}) {found.score:.2f}")
        blocks.append(f"{found.id}\n{times}\n{text}")
    return ("\n\n".join(blocks) + "\n").encode()


def _cue_time(time_ms: int) -> str:
    minutes, milliseconds = divmod(time_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _cue_text(text: str) -> str:
    """Without markup; `-->` would begin another cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _eaf(videos: Sequence[Analysed]) -> bytes:
    (one,) = videos
    return write_eaf(one.file_name, make_tracks(one.result), one.stored.context.labels, one.eaf_scores)


def _boris(videos: Sequence[Analysed]) -> bytes:
    return _table(BORIS_COLUMNS, (row for one in videos for row in _boris_rows(one)))


def _boris_rows(one: Analysed) -> list[tuple[object, ...]]:
    """In order of time."""
    media, name = one.result.media, one.file_name
    events = sorted(
        (span.start_ms, span.end_ms, action.label.name, body.label.name)
        for body, actions in make_tracks(one.result)
        for action in actions
        for span in action.spans
    )
    total = _seconds(sum(end_ms - start_ms for start_ms, end_ms, *_ in events))
    duration = _seconds(player_ms(media.duration_s, media))
    about = (
        one.video, "", "", "Media file", f"player #1:{name}", 0, duration, duration, f"{media.average_fps:.3f}",
        "No focal subject", total,
    )  # fmt: skip
    return [
        (
            *about, action, body, "STATE", _seconds(start_ms), _seconds(end_ms), _seconds(end_ms - start_ms), name,
            _frame(start_ms / 1000, media.average_fps), _frame(end_ms / 1000, media.average_fps), "", "", "", "",
        )
        for start_ms, end_ms, action, body in events
    ]  # fmt: skip


def _seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:.3f}"


def _frame(time_s: float, fps: float) -> int:
    """Frames that have begun before a time, at the video's average rate."""
    return round(time_s * fps)


def _label_studio(videos: Sequence[Analysed]) -> bytes:
    return _dump([_task(one) for one in videos], indent=1)


def _task(one: Analysed) -> dict[str, Any]:
    """A task with predictions: timelinelabels, one range a region, frames counted from 1, the last one included.

    Label Studio has no frames but times: frame n lasts from (n - 1) / fps to n / fps of the player's clock, whatever
    the video's own frames are. It takes no rate below 1.
    """
    media = one.result.media
    fps = max(1.0, media.average_fps)
    regions = []
    for found in one.result.detections:
        start_s, end_s = (player_ms(time_s, media) / 1000 for time_s in (found.start_s, found.end_s))
        first = _frame(start_s, fps) + 1
        regions.append(
            {
                "id": found.id,
                "from_name": "timelineLabels",
                "to_name": "video",
                "type": "timelinelabels",
                "value": {
                    "ranges": [{"start": first, "end": max(first, _frame(end_s, fps))}],
                    "timelinelabels": [found.action.name],
                },
                "score": found.score,
            }
        )
    model = one.result.model
    prediction = {"model_version": f"{model.bundle} {model.version}", "result": regions}
    data = {
        "video": one.source or one.video,
        "fps": fps,
        "duration_s": media.duration_s,
        "start_offset_s": media.start_offset_s,
    }
    return {"data": data, "predictions": [prediction]}


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
