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
    "upload_too_slow": Kind(408, "The upload came too slowly"),
    "unsupported_content_encoding": Kind(415, "The body's Content-Encoding is not undone here"),
    "too_many_files": Kind(413, "The request holds more videos than the limit"),
    "idempotency_conflict": Kind(422, "The Idempotency-Key was used for another request"),
    "request_in_progress": Kind(409, "A request with this Idempotency-Key is being taken"),
    "range_not_satisfiable": Kind(416, "The range lies beyond the video's end"),
    "callback_refused": Kind(422, "The callback_url is none that messages may be sent to"),
    "malformed_request": Kind(400, "The request is not well-formed HTTP"),
    "not_found": Kind(404, "There is nothing at this address"),
    "method_not_allowed": Kind(405, "This address does not take this method"),
    # the video
    "not_a_video": Kind(415, "The file is not a video that can be read"),
    "no_video_stream": Kind(422, "The file has no pictures"),
    "unsupported_codec": Kind(415, "The video's codec is not known here"),
    "video_too_long": Kind(422, "The video lasts longer than the limit"),
    "picture_too_large": Kind(422, "The picture has more pixels than the limit"),
    "frame_rate_too_high": Kind(422, "The video has more frames a second than the limit"),
    "too_many_streams": Kind(422, "The file has more streams than the limit"),
    "encrypted_video": Kind(422, "The video is encrypted"),
    "damaged_video": Kind(422, "The video cannot be decoded"),
    "decoder_crashed": Kind(422, "The video made the decoder crash"),
    "decoder_timeout": Kind(422, "Decoding the video took longer than the limit"),
    "decoder_out_of_memory": Kind(422, "Decoding the video takes more memory than the limit"),
    # the job
    "job_not_found": Kind(404, "No job has this id"),
    "job_not_finished": Kind(409, "The job has no result yet"),
    "job_already_ended": Kind(409, "The job has ended"),
    "job_canceled": Kind(409, "The job was canceled"),
    "job_deleted": Kind(410, "The job was deleted"),
    "job_expired": Kind(410, "The job has expired"),
    "video_not_kept": Kind(404, "The job's video is not kept"),
    "no_callback": Kind(404, "The job has no callback_url"),
    "job_timeout": Kind(422, "The job took longer than the limit"),
    # the caller
    "key_missing": Kind(401, "The request has no API key"),
    "key_unknown": Kind(401, "The API key is not valid"),
    "host_refused": Kind(403, "The service does not answer to this name"),
    "origin_refused": Kind(403, "Pages of this origin may not do that"),
    "rate_limited": Kind(429, "The key has made more requests than its limit"),
    "too_many_jobs": Kind(429, "The key has more unfinished jobs than its limit"),
    "storage_full": Kind(429, "The key has more stored bytes than its limit"),
    # the service
    "no_worker_yet": Kind(503, "No worker has loaded a model yet"),
    "queue_full": Kind(429, "The service has as many unfinished jobs as it takes"),
    "disk_full": Kind(507, "The service has no room left for videos"),
    "overloaded": Kind(503, "The service has as many connections as it takes"),
    "internal_error": Kind(500, "Something went wrong here"),
}

RETRY_AFTER_S = {
    "no_worker_yet": 2,
    "job_not_finished": 1,
    "too_many_jobs": 10,
    "storage_full": 60,
    "rate_limited": 1,
    "queue_full": 10,
    "disk_full": 60,
    "overloaded": 2,
    "request_in_progress": 1,
}


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """Raised anywhere in the service; becomes a problem document or a job's error.

    `headers` go with the document, above those that its code brings.
    """

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers or {}
