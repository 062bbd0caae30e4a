"""Logging configuration: structlog's events and those of libraries in one format, to standard error.

The format is text or JSON lines. Tracebacks are written without local variables, which may hold frames of videos.
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog
from structlog.types import Processor

Format = Literal["text", "json"]

_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper("iso"),
]


class _StandardError:
    """Writes to the current sys.stderr, which rich replaces to print above a progress bar.

    Not a subclass of io.IOBase: Python flushes those at exit, when the sys module may be gone.
    """

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(form: Format, level: int = logging.INFO) -> None:
    """Configure structlog and logging; may be called again. `level` is structlog's, libraries log from WARNING."""
    if form == "json":
        render: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*_COMMON, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )
    handler = logging.StreamHandler(cast(TextIO, _StandardError()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_COMMON, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # Matplotlib warns at every import if the home directory is not writable, and then uses a temporary cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
