"""Detections as tracks, one for each class, on the clock of a player: what ELAN and BORIS hold."""

from collections.abc import Iterable
from typing import NamedTuple

from service.schemas import Detection, Label, Media, Result


class Span(NamedTuple):
    """A stretch of one class in whole milliseconds, and its best score."""

    start_ms: int
    end_ms: int
    score: float


class Track(NamedTuple):
    """The spans of one class, in order of time; none overlaps another."""

    label: Label
    spans: list[Span]


class BodyTracks(NamedTuple):
    """A body part's own track and those of its actions."""

    body: Track
    actions: list[Track]


def make_tracks(result: Result) -> list[BodyTracks]:
    """Body parts, each with its actions, each with its spans; those without any are left out."""
    detections, media = result.detections, result.media
    bodies = {found.body.id: found.body for found in detections}
    actions = {found.action.id: found for found in detections}
    return [
        BodyTracks(
            # Where a body part's actions touch, it goes on moving, as in `body_segments`.
            _track(bodies[body], (found for found in detections if found.body.id == body), media, gap_ms=0),
            [
                _track(actions[id].action, (found for found in detections if found.action.id == id), media)
                for id in sorted(actions)
                if actions[id].body.id == body
            ],
        )
        for body in sorted(bodies)
    ]


def player_ms(time_s: float, media: Media) -> int:
    """A player's time in whole milliseconds for a time in seconds from the first frame: adds `start_offset_s`.

    Time and offset are rounded apart, so that lengths do not depend on the offset.
    """
    return round(time_s * 1000) + round(media.start_offset_s * 1000)


def _track(label: Label, detections: Iterable[Detection], media: Media, *, gap_ms: int = -1) -> Track:
    """Spans that overlap are made one: neither a tier of ELAN nor a behaviour of BORIS can hold both.

    Args:
        gap_ms: spans this close are made one too; 0 if they touch, -1 if they overlap.
    """
    spans: list[Span] = []
    for found in sorted(detections, key=lambda found: found.start_s):
        span = Span(player_ms(found.start_s, media), player_ms(found.end_s, media), found.score)
        if spans and span.start_ms - spans[-1].end_ms <= gap_ms:
            last = spans.pop()
            span = Span(last.start_ms, max(last.end_ms, span.end_ms), max(last.score, span.score))
        spans.append(span)
    return Track(label, spans)
