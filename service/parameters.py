"""Query, form and command-line parameters: parsed into models, and described for OpenAPI by the same models."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import Problem
from service.schemas import Region

Parameters = TypeVar("Parameters", bound=BaseModel)
# Of parameters that are text which `parse_parameters` splits at commas.
_EXAMPLES = {"labels": "B1,F", "region": "0.25,0,0.5,1"}


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


def describe_parameters(*models: type[BaseModel], **overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the OpenAPI query parameters of the models' fields; `overrides` replace entries of some by name."""
    parameters: dict[str, dict[str, Any]] = {}
    for model in models:
        document = model.model_json_schema()
        for name, field in document["properties"].items():
            schema = field | field.get("anyOf", [{}])[0]  # the other alternative is null
            if "$ref" in schema:
                schema = document["$defs"][schema["$ref"].rsplit("/", 1)[1]]
            parameter = {"name": name, "in": "query", "description": field["description"]}
            if name in document.get("required", []):
                parameter["required"] = True
            if schema["type"] in ("array", "object"):
                parameter |= {"schema": {"type": "string"}, "example": _EXAMPLES[name]}
            else:
                unwanted = {"title", "description", "anyOf"} | ({"default"} if field.get("default") is None else set())
                parameter["schema"] = {key: value for key, value in schema.items() if key not in unwanted}
            parameters[name] = parameter | overrides.get(name, {})
    return list(parameters.values())
