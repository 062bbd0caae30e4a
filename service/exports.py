"""Exports results to the formats of other programs: a table of formats, with one writer function each.

Times are in seconds from the video's first frame. Formats that are used with a media player (EAF, WebVTT, BORIS, Label
Studio) have the player's times, which are larger by `media.start_offset_s`.
"""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import PurePath
from typing import Any, Literal

from service.elan import write_eaf
from service.errors import Problem
from service.results import StoredProposals
from service.schemas import EafScores, Result
from service.scores import compute_score_track, to_csv, to_npz
from service.tracks import make_tracks, to_player_ms

# Invalid in XML and so in ELAN; a line break in a name would end a comment or a cue of WebVTT.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
# Surrogate escapes: Python's representation of bytes in a file name that are not UTF-8.
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")

# Columns of BORIS's `Export aggregated events` (version 8, source of 2024), without independent variables and
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
# Columns that the evaluation script of the MAC challenge reads.
CHALLENGE_COLUMNS = ("", "video_id", "t_start", "t_end", "class", "score")
CHALLENGE_MEMBER = "prediction.csv"


@dataclass(frozen=True)
class VideoResult:
    """The result of one video and the parameters of its export; see ExportView for `rate` and `eaf_scores`."""

    video: str  # the job's id, or the file name without suffix
    result: Result  # the requested view
    stored: StoredProposals  # for the formats that ignore the view
    source: str = ""  # path or URL, if known
    rate: float = 5.0
    eaf_scores: EafScores = "tier"

    def __post_init__(self) -> None:
        object.__setattr__(self, "video", sanitize_name(self.video))
        object.__setattr__(self, "source", sanitize_name(self.source))

    @property
    def file_name(self) -> str:
        """File name of the video, without folders."""
        return PurePath(self.source).name or self.video


def sanitize_name(name: str) -> str:
    """Convert a file name to valid text: bytes that are not UTF-8 are Windows-1252, control characters are escaped."""
    text = _NOT_UTF8.sub(lambda byte: bytes([ord(byte[0]) - 0xDC00]).decode("cp1252", "backslashreplace"), name)
    return _NOT_TEXT.sub(
        lambda char: f"\\x{ord(char[0]):02x}" if ord(char[0]) < 256 else f"\\u{ord(char[0]):04x}", text
    )


def find_name_collision(names: Iterable[str], *, any_case: bool) -> list[str]:
    """Return the first group of names that are equal in exports, ignoring case if `any_case`; empty if all differ."""
    groups: dict[str, list[str]] = {}
    for name in map(sanitize_name, names):
        key = unicodedata.normalize("NFC", name)
        groups.setdefault(key.lower() if any_case else key, []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


@dataclass(frozen=True)
class Format:
    """An export format."""

    name: str
    media_type: str
    suffix: str
    description: str
    write: Callable[[Sequence[VideoResult]], bytes]
    several: bool = False  # whether one file can have any number of videos instead of exactly one
    needs: tuple[str, ...] = ()  # libraries that are imported only when the format is written

    @property
    def is_text(self) -> bool:
        """True for text formats, which can be printed to a terminal."""
        return self.suffix not in (".npz", ".zip", ".png")


def write_export(name: str, videos: Sequence[VideoResult]) -> bytes:
    """Return the content of an export file; raises Problem invalid_parameter if the format does not allow several."""
    chosen = find_format(name)
    if len(videos) != 1 and not chosen.several:
        raise Problem("invalid_parameter", f"format={name} holds one video a file, not {len(videos)}")
    return chosen.write(videos)


def find_format(name: str) -> Format:
    """Return a format by name; raises Problem invalid_parameter, whose detail lists the known ones."""
    if name not in FORMATS:
        raise Problem("invalid_parameter", f"format={name[:64]} is not known; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def write_json(videos: Sequence[VideoResult], *, as_list: bool = False) -> bytes:
    """Write the format `json`: a single result, or a list unless there is exactly one and `as_list` is false."""
    documents = [_add_video(item, item.result.model_dump(mode="json")) for item in videos]
    return _dump(documents if as_list or len(documents) != 1 else documents[0], indent=1)


def _write_jsonl(videos: Sequence[VideoResult]) -> bytes:
    return b"".join(
        _dump(_add_video(item, detection.model_dump(mode="json")))
        for item in videos
        for detection in item.result.detections
    )


def _add_video(item: VideoResult, document: dict[str, Any]) -> dict[str, Any]:
    return {"video": item.source or item.video, **document}


def _write_csv(videos: Sequence[VideoResult]) -> bytes:
    rows = (
        (
            item.video, detection.id, f"{detection.start_s:.3f}", f"{detection.end_s:.3f}",
            f"{detection.end_s - detection.start_s:.3f}", f"{detection.score:.4f}",
            detection.action.id, detection.action.code, detection.action.name,
            detection.body.code, detection.body.name, " ".join(detection.overlaps),
        )
        for item in videos
        for detection in item.result.detections
    )  # fmt: skip
    return _write_table(CSV_COLUMNS, rows)


def _write_frames_csv(videos: Sequence[VideoResult]) -> bytes:
    (item,) = videos
    return to_csv(compute_score_track(item.stored, item.rate)).encode()


def _write_frames_npz(videos: Sequence[VideoResult]) -> bytes:
    (item,) = videos
    return to_npz(compute_score_track(item.stored, item.rate))


def _write_vtt(videos: Sequence[VideoResult]) -> bytes:
    (item,) = videos
    blocks = ["WEBVTT", f"NOTE {escape(item.video, quote=False)}"]
    for detection in item.result.detections:
        start_ms, end_ms = (to_player_ms(time_s, item.result.media) for time_s in (detection.start_s, detection.end_s))
        times = f"{_format_cue_time(start_ms)} --> {_format_cue_time(end_ms)}"
        # Escapes `-->` too, which would start another cue.
        text = escape(f"{detection.action.name} ({detection.body.name}) {detection.score:.2f}", quote=False)
        blocks.append(f"{detection.id}\n{times}\n{text}")
    return ("\n\n".join(blocks) + "\n").encode()


def _format_cue_time(time_ms: int) -> str:
    minutes, milliseconds = divmod(time_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _write_eaf(videos: Sequence[VideoResult]) -> bytes:
    (item,) = videos
    return write_eaf(item.file_name, make_tracks(item.result), item.stored.context.labels, item.eaf_scores)


def _write_boris(videos: Sequence[VideoResult]) -> bytes:
    return _write_table(BORIS_COLUMNS, (row for item in videos for row in _make_boris_rows(item)))


def _make_boris_rows(item: VideoResult) -> list[tuple[object, ...]]:
    """Return the rows of BORIS's table, ordered by time; frames are counted at the average rate."""
    media, name = item.result.media, item.file_name
    events = sorted(
        (span.start_ms, span.end_ms, action.label.name, body.label.name)
        for body, actions in make_tracks(item.result)
        for action in actions
        for span in action.spans
    )
    total = _format_seconds(sum(end_ms - start_ms for start_ms, end_ms, *_ in events))
    duration = _format_seconds(to_player_ms(media.duration_s, media))
    observation = (
        item.video, "", "", "Media file", f"player #1:{name}", 0, duration, duration, f"{media.average_fps:.3f}",
        "No focal subject", total,
    )  # fmt: skip
    return [
        (
            *observation, action, body, "STATE",
            _format_seconds(start_ms), _format_seconds(end_ms), _format_seconds(end_ms - start_ms), name,
            round(start_ms / 1000 * media.average_fps), round(end_ms / 1000 * media.average_fps),
            "", "", "", "",
        )
        for start_ms, end_ms, action, body in events
    ]  # fmt: skip


def _format_seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:.3f}"


def _write_label_studio(videos: Sequence[VideoResult]) -> bytes:
    return _dump([_make_task(item) for item in videos], indent=1)


def _make_task(item: VideoResult) -> dict[str, Any]:
    """Make a task with predictions: timelinelabels, one range per region, frames counted from 1, the last one included.

    Label Studio converts frames to times: frame n lasts from (n - 1) / fps to n / fps in the player's time, regardless
    of the video's real frames. It requires a rate of at least 1.
    """
    media = item.result.media
    fps = max(1.0, media.average_fps)
    regions = []
    for detection in item.result.detections:
        start_s, end_s = (to_player_ms(time_s, media) / 1000 for time_s in (detection.start_s, detection.end_s))
        first = round(start_s * fps) + 1
        value = {
            "ranges": [{"start": first, "end": max(first, round(end_s * fps))}],
            "timelinelabels": [detection.action.name],
        }
        names = {"from_name": "timelineLabels", "to_name": "video", "type": "timelinelabels"}
        regions.append({"id": detection.id, **names, "value": value, "score": detection.score})
    model = item.result.model
    prediction = {"model_version": f"{model.bundle} {model.version}", "result": regions}
    times = {"fps": fps, "duration_s": media.duration_s, "start_offset_s": media.start_offset_s}
    return {"data": {"video": item.source or item.video, **times}, "predictions": [prediction]}


def _write_activitynet(videos: Sequence[VideoResult]) -> bytes:
    results = {
        item.video: [
            {"label": detection.action.name, "score": detection.score, "segment": [detection.start_s, detection.end_s]}
            for detection in item.result.detections
        ]
        for item in videos
    }
    return _dump({"version": "VERSION 1.3", "results": results, "external_data": {}}, indent=1)


def _write_mac_csv(videos: Sequence[VideoResult]) -> bytes:
    rows: list[tuple[object, ...]] = []
    for item in videos:
        stored = item.stored
        for (start_s, end_s), label, score in zip(stored.segments, stored.labels, stored.scores, strict=True):
            rows.append((len(rows), item.video, float(start_s), float(end_s), int(label), float(score)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # ZipInfo's date is fixed, so that the same proposals result in the same file.
        member = zipfile.ZipInfo(CHALLENGE_MEMBER)
        archive.writestr(member, _write_table(CHALLENGE_COLUMNS, rows), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _write_timeline(videos: Sequence[VideoResult], form: Literal["png", "svg"]) -> bytes:
    from service.timeline import draw_timeline

    (item,) = videos
    return draw_timeline(item.video, item.result, item.stored.context.labels, form)


def _write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _dump(document: object, indent: int | None = None) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=indent) + "\n").encode()


_CSV, _JSON = "text/csv; charset=utf-8", "application/json"

_FORMATS = (
    Format("json", _JSON, ".json", "the result, everything in it", write_json, several=True),
    Format("jsonl", "application/jsonl", ".jsonl", "one detection a line", _write_jsonl, several=True),
    Format("csv", _CSV, ".csv", "one detection a row", _write_csv, several=True),
    Format("frames-csv", _CSV, ".frames.csv", "scores over time, columns as OpenFace's", _write_frames_csv),
    Format("frames-npz", "application/zip", ".npz", "scores over time, NumPy arrays", _write_frames_npz),
    Format("vtt", "text/vtt; charset=utf-8", ".vtt", "WebVTT cues for video players", _write_vtt),
    Format(
        "eaf", "application/xml", ".eaf", "ELAN, a tier for each action and body part", _write_eaf, needs=("pympi",)
    ),
    Format("boris", _CSV, ".boris.csv", "BORIS, aggregated events", _write_boris, several=True),
    Format("label-studio", _JSON, ".label-studio.json", "Label Studio, predictions", _write_label_studio, several=True),
    Format("activitynet", _JSON, ".activitynet.json", "ActivityNet's detection JSON", _write_activitynet, several=True),
    Format("mac-csv", "application/zip", ".zip", "the challenge's file, no threshold", _write_mac_csv, several=True),
    Format("png", "image/png", ".png", "a timeline", partial(_write_timeline, form="png"), needs=("matplotlib",)),
    Format(
        "svg", "image/svg+xml", ".svg", "a timeline, to be scaled", partial(_write_timeline, form="svg"),
        needs=("matplotlib",),
    ),
)  # fmt: skip
FORMATS = {format.name: format for format in _FORMATS}
