"""What the detector refuses, each with a stable code and a sentence for people."""


class DetectorError(Exception):
    """Anything the detector refuses; `code` is stable, the text names value, limit and remedy."""

    code = "detector_error"


class BundleError(DetectorError):
    """The bundle's schema, files or hashes do not fit."""

    code = "bundle_invalid"


class EngineError(DetectorError):
    """No engine that fits the request is installed, or one disagrees with its reference."""

    code = "engine_unavailable"


class VideoError(DetectorError):
    """The video cannot be analysed."""

    code = "video_error"


class NotAVideoError(VideoError):
    """The bytes are no container that is read here."""

    code = "not_a_video"


class NoVideoStreamError(VideoError):
    """The container holds sound or text, no pictures."""

    code = "no_video_stream"


class UnsupportedCodecError(VideoError):
    """The pictures are in a form that no decoder here reads."""

    code = "unsupported_codec"


class VideoTooLongError(VideoError):
    """The video lasts longer than the limit."""

    code = "video_too_long"


class PictureTooLargeError(VideoError):
    """The picture has more pixels than the limit."""

    code = "picture_too_large"


class FrameRateTooHighError(VideoError):
    """The video has more frames a second than the limit."""

    code = "frame_rate_too_high"


class TooManyStreamsError(VideoError):
    """The container holds more streams than the limit."""

    code = "too_many_streams"


class EncryptedVideoError(VideoError):
    """The frames are encrypted."""

    code = "encrypted_video"


class DamagedVideoError(VideoError):
    """The container opens, but its frames do not decode."""

    code = "damaged_video"


class DecoderCrashedError(VideoError):
    """The video made the decoder's process crash, or say what a sound one does not."""

    code = "decoder_crashed"


class DecoderTimeoutError(VideoError):
    """The decoder brought no frame for too long, or used up its computing time."""

    code = "decoder_timeout"


class DecoderMemoryError(VideoError):
    """Decoding takes more memory than the limit."""

    code = "decoder_out_of_memory"


class SandboxError(DetectorError):
    """The decoder's process cannot be had, or not as confined as was asked for."""

    code = "sandbox_unavailable"


class DecoderKilledError(DetectorError):
    """The decoder's process was ended from outside: no fault of the video, which another attempt may analyse."""

    code = "decoder_killed"
