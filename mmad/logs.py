"""How the log is written: structlog's events and those of libraries the same way, to standard error.

Text for people, or JSON, a document a line. Exceptions are text without local variables: those hold pieces of people's
videos.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import Processor

Format = Literal["text", "json"]

_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper("iso"),
]


def configure(form: Format) -> None:
    """Set up both; may be called again."""
    render = _renderers(form)
    structlog.configure(
        processors=[*_COMMON, *render], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_COMMON, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # It warns at every start of a user whose home cannot be written, and keeps its cache elsewhere all the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _renderers(form: Format) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
