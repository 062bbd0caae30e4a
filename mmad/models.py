"""The API's documents as the client returns them: the service's own models, parsed leniently.

The service may be newer than the client: unknown fields are allowed, and an unknown value of an enumeration stays a
string. A missing field or one of another type is an error.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from service.job_schemas import *  # noqa: F403 - every document is re-exported
from service.schemas import *  # noqa: F403
from service.schemas import LENIENT, Document

Json = dict[str, Any]
DocumentT = TypeVar("DocumentT", bound=Document)


class AnswerError(ValueError):
    """A document lacks a value, or has one of another type."""


def parse(kind: type[DocumentT], text: bytes | str) -> DocumentT:
    """Parse a JSON document; raises AnswerError naming the first field that does not fit."""
    try:
        return kind.model_validate_json(text, strict=True, extra="allow", context=LENIENT)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([kind.__name__, *map(str, first["loc"])])
        raise AnswerError(f"{field}: {first['msg']}") from error
