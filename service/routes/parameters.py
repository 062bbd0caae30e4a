"""OpenAPI descriptions of parameters shared by several routes; service.parameters parses them."""

from typing import Any

VIEW: list[dict[str, Any]] = [
    {"name": "min_score", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1},
     "description": "Least score shown; without it, the bundle's threshold of each class."},
    {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1},
     "description": "At most this many detections, the best."},
    {"name": "labels", "in": "query", "schema": {"type": "string"}, "example": "B1,F",
     "description": "Codes or names of actions or body parts, in any case of letters, with commas between."},
]  # fmt: skip

UPLOAD: list[dict[str, Any]] = [
    {"name": "region", "in": "query", "schema": {"type": "string"}, "example": "0.25,0,0.5,1",
     "description": "x,y,width,height as fractions of the upright picture: the part to look at."},
    {"name": "callback_url", "in": "query", "schema": {"type": "string", "format": "uri", "maxLength": 2000},
     "description": "Where a signed message is sent when the job has ended (Standard Webhooks)."},
    {"name": "retention_s", "in": "query", "schema": {"type": "integer", "minimum": 0},
     "description": "How long the result is kept after the end."},
    {"name": "keep_video", "in": "query", "schema": {"type": "boolean"},
     "description": "Keep the video as long as the result, not only until it was analysed."},
    {"name": "name", "in": "query", "schema": {"type": "string", "minLength": 1, "maxLength": 255},
     "description": "The video's name, for exports; the file's own name if not given. For a single video."},
    {"name": "tag", "in": "query", "schema": {"type": "string", "minLength": 1, "maxLength": 200},
     "description": "A word of the caller's own, to find jobs by."},
]  # fmt: skip

TIME_RANGE: list[dict[str, Any]] = [
    {"name": "from_s", "in": "query", "schema": {"type": "number", "minimum": 0},
     "description": "Only what goes on at or after this time."},
    {"name": "to_s", "in": "query", "schema": {"type": "number", "minimum": 0},
     "description": "Only what goes on at or before this time."},
]  # fmt: skip

LISTING: list[dict[str, Any]] = [
    {"name": "cursor", "in": "query", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
     "description": "`next` of the page before."},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
     "description": "Jobs a page."},
    {"name": "state", "in": "query",
     "schema": {"type": "string", "enum": ["queued", "running", "succeeded", "failed", "canceled"]},
     "description": "Only jobs in this state."},
    {"name": "since", "in": "query", "schema": {"type": "string", "format": "date-time"},
     "description": "Only jobs sent at this time or later."},
    {"name": "until", "in": "query", "schema": {"type": "string", "format": "date-time"},
     "description": "Only jobs sent before this time."},
    {"name": "tag", "in": "query", "schema": {"type": "string"}, "description": "Only jobs with this tag."},
    {"name": "batch", "in": "query", "schema": {"type": "string"}, "description": "Only jobs of this batch."},
]  # fmt: skip
