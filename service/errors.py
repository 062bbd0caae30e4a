"""Every error a caller can meet: a stable code, a status, a title. RFC 9457 problem documents are made of these.

The detail is a sentence for the caller that names value, limit and remedy; what only the operator should
know goes to the log.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """An entry of the catalogue."""

    status: int
    title: str


CATALOGUE = {
    # the request
    "unknown_parameter": Kind(422, "The request has a parameter that is not known"),
    "invalid_parameter": Kind(422, "A parameter has a value that does not fit"),
    "malformed_upload": Kind(400, "The body is not a well-formed upload"),
    "empty_upload": Kind(400, "The upload holds no bytes"),
    "upload_too_large": Kind(413, "The upload is larger than the limit"),
    "not_found": Kind(404, "There is nothing at this address"),
    "method_not_allowed": Kind(405, "This address does not take this method"),
    # the video
    "not_a_video": Kind(415, "The file is not a video that can be read"),
    "no_video_stream": Kind(422, "The file has no pictures"),
    "unsupported_codec": Kind(415, "The video's codec is not known here"),
    "video_too_long": Kind(422, "The video lasts longer than the limit"),
    "picture_too_large": Kind(422, "The picture has more pixels than the limit"),
    "damaged_video": Kind(422, "The video cannot be decoded"),
    # the job
    "job_not_found": Kind(404, "No job has this id"),
    "job_not_finished": Kind(409, "The job has no result yet"),
    "job_timeout": Kind(422, "The job took longer than the limit"),
    # the service
    "queue_unavailable": Kind(503, "The queue cannot be reached"),
    "no_worker_yet": Kind(503, "No worker has loaded a model yet"),
    "internal_error": Kind(500, "Something went wrong here"),
}

RETRY_AFTER_S = {"queue_unavailable": 5, "no_worker_yet": 2, "job_not_finished": 1}


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """Raised anywhere in the service; becomes a problem document or a job's error."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
