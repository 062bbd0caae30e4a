"""Detections as one track per class, in a media player's time: the data model of ELAN and BORIS."""

from collections.abc import Iterable
from typing import NamedTuple

from service.schemas import Detection, Label, Media, Result


class Span(NamedTuple):
    """An interval of one class in whole milliseconds, and its best score."""

    start_ms: int
    end_ms: int
    score: float


class Track(NamedTuple):
    """The spans of one class, ordered by time and not overlapping."""

    label: Label
    spans: list[Span]


def make_tracks(result: Result) -> list[tuple[Track, list[Track]]]:
    """Make the track of each body part that has detections, and the tracks of its actions."""
    detections, media = result.detections, result.media
    bodies = {detection.body.id: detection.body for detection in detections}
    actions = {detection.action.id: detection.action for detection in detections}
    tracks = []
    for body in sorted(bodies):
        group = [detection for detection in detections if detection.body.id == body]
        by_action = [
            _make_track(actions[id], (one for one in group if one.action.id == id), media)
            for id in sorted({detection.action.id for detection in group})
        ]
        # Touching actions of a body part are merged, as in `body_segments`.
        tracks.append((_make_track(bodies[body], group, media, gap_ms=0), by_action))
    return tracks


def to_player_ms(time_s: float, media: Media) -> int:
    """Convert seconds from the first frame to a player's time in whole milliseconds, by adding `start_offset_s`."""
    # Rounded separately, so that durations do not depend on the offset.
    return round(time_s * 1000) + round(media.start_offset_s * 1000)


def _make_track(label: Label, detections: Iterable[Detection], media: Media, *, gap_ms: int = -1) -> Track:
    """Make a track, merging spans that overlap, or touch with `gap_ms` 0: an ELAN tier cannot contain both."""
    spans: list[Span] = []
    for detection in sorted(detections, key=lambda detection: detection.start_s):
        start_ms, end_ms = to_player_ms(detection.start_s, media), to_player_ms(detection.end_s, media)
        span = Span(start_ms, end_ms, detection.score)
        if spans and span.start_ms - spans[-1].end_ms <= gap_ms:
            last = spans.pop()
            span = Span(last.start_ms, max(last.end_ms, span.end_ms), max(last.score, span.score))
        spans.append(span)
    return Track(label, spans)
