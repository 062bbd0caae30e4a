"""The catalogue of errors that callers can receive: a stable code, a status and a title (RFC 9457 problem types).

The `detail` of a problem is a sentence for the caller that names the value, the limit and the remedy. Information for
the operator only goes to the log.
"""

from typing import NamedTuple


class ProblemType(NamedTuple):
    """Status and title of a problem code, and for temporary problems the seconds of Retry-After."""

    status: int
    title: str
    retry_after_s: int | None = None


CATALOGUE = {
    # the request
    "unknown_parameter": ProblemType(422, "The request has a parameter that is not known"),
    "invalid_parameter": ProblemType(422, "A parameter has a value that does not fit"),
    "malformed_upload": ProblemType(400, "The body is not a well-formed upload"),
    "empty_upload": ProblemType(400, "The upload holds no bytes"),
    "upload_too_large": ProblemType(413, "The upload is larger than the limit"),
    "upload_too_slow": ProblemType(408, "The upload came too slowly"),
    "unsupported_content_encoding": ProblemType(415, "The body's Content-Encoding is not undone here"),
    "too_many_files": ProblemType(413, "The request holds more videos than the limit"),
    "idempotency_conflict": ProblemType(422, "The Idempotency-Key was used for another request"),
    "request_in_progress": ProblemType(409, "A request with this Idempotency-Key is being taken", 1),
    "range_not_satisfiable": ProblemType(416, "The range lies beyond the video's end"),
    "callback_refused": ProblemType(422, "The callback_url is none that messages may be sent to"),
    "malformed_request": ProblemType(400, "The request is not well-formed HTTP"),
    "not_found": ProblemType(404, "There is nothing at this address"),
    "method_not_allowed": ProblemType(405, "This address does not take this method"),
    # the video
    "not_a_video": ProblemType(415, "The file is not a video that can be read"),
    "no_video_stream": ProblemType(422, "The file has no pictures"),
    "unsupported_codec": ProblemType(415, "The video's codec is not known here"),
    "video_too_long": ProblemType(422, "The video lasts longer than the limit"),
    "picture_too_large": ProblemType(422, "The picture has more pixels than the limit"),
    "frame_rate_too_high": ProblemType(422, "The video has more frames a second than the limit"),
    "too_many_streams": ProblemType(422, "The file has more streams than the limit"),
    "encrypted_video": ProblemType(422, "The video is encrypted"),
    "damaged_video": ProblemType(422, "The video cannot be decoded"),
    "decoder_crashed": ProblemType(422, "The video made the decoder crash"),
    "decoder_timeout": ProblemType(422, "Decoding the video took longer than the limit"),
    "decoder_out_of_memory": ProblemType(422, "Decoding the video takes more memory than the limit"),
    # the job
    "job_not_found": ProblemType(404, "No job has this id"),
    "job_not_finished": ProblemType(409, "The job has no result yet", 1),
    "job_already_ended": ProblemType(409, "The job has ended"),
    "job_canceled": ProblemType(409, "The job was canceled"),
    "job_deleted": ProblemType(410, "The job was deleted"),
    "job_expired": ProblemType(410, "The job has expired"),
    "video_not_kept": ProblemType(404, "The job's video is not kept"),
    "no_callback": ProblemType(404, "The job has no callback_url"),
    "job_timeout": ProblemType(422, "The job took longer than the limit"),
    # the caller
    "key_missing": ProblemType(401, "The request has no API key"),
    "key_unknown": ProblemType(401, "The API key is not valid"),
    "host_refused": ProblemType(403, "The service does not answer to this name"),
    "origin_refused": ProblemType(403, "Pages of this origin may not do that"),
    "rate_limited": ProblemType(429, "The key has made more requests than its limit", 1),
    "too_many_jobs": ProblemType(429, "The key has more unfinished jobs than its limit", 10),
    "storage_full": ProblemType(429, "The key has more stored bytes than its limit", 60),
    # the service
    "no_worker_yet": ProblemType(503, "No worker has loaded a model yet", 2),
    "queue_full": ProblemType(429, "The service has as many unfinished jobs as it takes", 10),
    "disk_full": ProblemType(507, "The service has no room left for videos", 60),
    "overloaded": ProblemType(503, "The service has as many connections as it takes", 2),
    "internal_error": ProblemType(500, "Something went wrong here"),
}


class Problem(Exception):  # noqa: N818 - RFC 9457's term
    """An error for the caller: becomes a problem document, with `headers` added, or the error of a job."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers or {}
