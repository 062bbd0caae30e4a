"""The OpenAPI document: FastAPI's own, with our errors in place of its, and with real examples (tests/examples.py)."""

import json
from importlib.resources import files
from typing import Any

from service.app_state import problems
from service.job_schemas import ProblemDocument
from service.origin_guard import HEALTH_PATHS, SAFE_METHODS

_PROBLEM = "application/problem+json"


def complete(document: dict[str, Any]) -> None:
    """Change FastAPI's document, in place, into ours."""
    examples = json.loads(files("service").joinpath("examples.json").read_text(encoding="utf-8"))
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"]["ProblemDocument"] = ProblemDocument.model_json_schema()
    components["examples"] = {code: {"value": value} for code, value in examples["problems"].items()}
    for path, operations in (document["paths"] | document["webhooks"]).items():
        for method, operation in operations.items():
            _complete_operation(operation, path, method)
            _add_examples(operation["responses"], f"{method.upper()} {path}", examples["answers"])


def _complete_operation(operation: dict[str, Any], path: str, method: str) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]  # FastAPI's
    if not path.startswith("/"):  # a message that we send
        return
    if "security" in operation:  # whoever runs the service says whether it asks for keys
        operation["security"] = [{}, *operation["security"]]
    # service.origin_guard and service.middleware stand before all routes.
    codes = ["malformed_request"]
    if path not in HEALTH_PATHS:
        codes += ["host_refused", "overloaded"]
    if method.upper() not in SAFE_METHODS:
        codes += ["origin_refused", "disk_full"]
    for status, response in problems(*dict.fromkeys([*_told(responses), *codes])).items():
        responses[str(status)] = response


def _told(responses: dict[str, Any]) -> list[str]:
    """The codes that an operation's own responses tell of."""
    contents = [response.get("content", {}) for response in responses.values()]
    return [code for content in contents for code in content.get(_PROBLEM, {}).get("examples", {})]


def _add_examples(responses: dict[str, Any], operation: str, answers: dict[str, Any]) -> None:
    """Those captured of an operation and status; files have theirs by their content type too."""
    for status, response in responses.items():
        for kind, content in response.get("content", {}).items():
            place = f"{operation} {status}"
            if named := answers.get(f"{place} {kind}", answers.get(place)):
                content["examples"] = {name: {"value": value} for name, value in named.items()}
