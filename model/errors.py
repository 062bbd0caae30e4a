"""The detector's errors, each with a stable code."""


class DetectorError(Exception):
    """Base class of the detector's errors. `code` is stable; the text names value, limit and remedy."""

    code = "detector_error"


class BundleError(DetectorError):
    """The bundle's schema, files or hashes are invalid."""

    code = "bundle_invalid"


class EngineError(DetectorError):
    """No matching engine is installed, or an engine's outputs differ from those of torch."""

    code = "engine_unavailable"


class VideoError(DetectorError):
    """The video cannot be analysed."""

    code = "video_error"


class NotAVideoError(VideoError):
    """The file is not a container in a supported format."""

    code = "not_a_video"


class NoVideoStreamError(VideoError):
    """The container has no video stream."""

    code = "no_video_stream"


class UnsupportedCodecError(VideoError):
    """No decoder for the video's codec is available."""

    code = "unsupported_codec"


class VideoTooLongError(VideoError):
    """The video lasts longer than the limit."""

    code = "video_too_long"


class PictureTooLargeError(VideoError):
    """A frame has more pixels than the limit."""

    code = "picture_too_large"


class FrameRateTooHighError(VideoError):
    """The video has more frames per second than the limit."""

    code = "frame_rate_too_high"


class TooManyStreamsError(VideoError):
    """The container holds more streams than the limit."""

    code = "too_many_streams"


class EncryptedVideoError(VideoError):
    """The frames are encrypted."""

    code = "encrypted_video"


class DamagedVideoError(VideoError):
    """The container opens, but no frame decodes."""

    code = "damaged_video"


class DecoderCrashedError(VideoError):
    """The decode process crashed, or sent an invalid message."""

    code = "decoder_crashed"


class DecoderTimeoutError(VideoError):
    """Decoding a frame took too long, or the decode process reached its limit of CPU time."""

    code = "decoder_timeout"


class DecoderMemoryError(VideoError):
    """Decoding needs more memory than the limit."""

    code = "decoder_out_of_memory"


class SandboxError(DetectorError):
    """The decode process cannot be started, or not with the required confinement."""

    code = "sandbox_unavailable"


class DecoderKilledError(DetectorError):
    """The decode process was killed from outside: the video is not the cause, and a retry may succeed."""

    code = "decoder_killed"
