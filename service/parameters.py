"""Parsing of query, form and command-line values into models."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import Problem
from service.schemas import Region

Parameters = TypeVar("Parameters", bound=BaseModel)


def parse_parameters(model: type[Parameters], values: dict[str, str]) -> Parameters:
    """Parse string values into a model; raises Problem unknown_parameter or invalid_parameter."""
    known = list(model.model_fields)
    if unknown := [name for name in values if name not in known]:
        raise Problem("unknown_parameter", f"{unknown[0][:64]!r} is not known here; known are {', '.join(known)}")
    given: dict[str, Any] = dict(values)
    if "labels" in given:
        parts = [part.strip() for part in values["labels"].split(",")]
        given["labels"] = [part for part in parts if part] or parts[:1]
    if "region" in given:
        parts = values["region"].split(",")
        if len(parts) != len(Region.model_fields):
            raise Problem(
                "invalid_parameter",
                f"region={values['region'][:64]}: it takes four fractions, x,y,width,height, as in 0.25,0,0.5,1",
            )
        given["region"] = dict(zip(Region.model_fields, parts, strict=True))
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value = values.get(name, "")[:64]
        raise Problem("invalid_parameter", f"{name}={value}: {first['msg'].removeprefix('Value error, ')}") from error
