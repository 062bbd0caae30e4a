"""The detector's errors, each with a stable code."""

from typing import ClassVar


class DetectorError(Exception):
    """Base class of the detector's errors. `code` is stable; the text names value, limit and remedy."""

    code: ClassVar[str] = "detector_error"

    def __init_subclass__(cls, code: str) -> None:
        super().__init_subclass__()
        cls.code = code


class BundleError(DetectorError, code="bundle_invalid"):
    """The bundle's schema, files or hashes are invalid."""


class EngineError(DetectorError, code="engine_unavailable"):
    """No matching engine is installed, or an engine's outputs differ from those of torch."""


class VideoError(DetectorError, code="video_error"):
    """The video cannot be analysed."""


class NotAVideoError(VideoError, code="not_a_video"):
    """The file is not a container in a supported format."""


class NoVideoStreamError(VideoError, code="no_video_stream"):
    """The container has no video stream."""


class UnsupportedCodecError(VideoError, code="unsupported_codec"):
    """No decoder for the video's codec is available."""


class VideoTooLongError(VideoError, code="video_too_long"):
    """The video lasts longer than the limit."""


class PictureTooLargeError(VideoError, code="picture_too_large"):
    """A frame has more pixels than the limit."""


class FrameRateTooHighError(VideoError, code="frame_rate_too_high"):
    """The video has more frames per second than the limit."""


class TooManyStreamsError(VideoError, code="too_many_streams"):
    """The container holds more streams than the limit."""


class EncryptedVideoError(VideoError, code="encrypted_video"):
    """The frames are encrypted."""


class DamagedVideoError(VideoError, code="damaged_video"):
    """The container opens, but no frame decodes."""


class DecoderCrashedError(VideoError, code="decoder_crashed"):
    """The decode process crashed, or sent an invalid message."""


class DecoderTimeoutError(VideoError, code="decoder_timeout"):
    """Decoding a frame took too long, or the decode process reached its limit of CPU time."""


class DecoderMemoryError(VideoError, code="decoder_out_of_memory"):
    """Decoding needs more memory than the limit."""


class SandboxError(DetectorError, code="sandbox_unavailable"):
    """The decode process cannot be started, or not with the required confinement."""


class DecoderKilledError(DetectorError, code="decoder_killed"):
    """The decode process was killed from outside: the video is not the cause, and a retry may succeed."""
