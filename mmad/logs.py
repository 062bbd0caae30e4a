"""How the log is written: structlog's events and those of libraries the same way, to standard error.

Text for people, or JSON, a document a line. Exceptions are text without local variables: those hold pieces of people's
videos.
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
    """Writes to what sys.stderr is at the time: while a progress bar is shown, that prints above the bar.

    Not a file of io's: Python flushes those when it ends, at a time when there is no sys any more.
    """

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(form: Format, level: int = logging.INFO) -> None:
    """Set up both; may be called again. Events below `level` are dropped; libraries log from WARNING on."""
    render = _renderers(form)
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
    # Matplotlib warns at every start if the home directory is not writable; its temporary cache works all the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _renderers(form: Format) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
