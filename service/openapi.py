"""Completes FastAPI's OpenAPI document with problem responses and captured examples (tests/api_examples.py)."""

import json
from importlib.resources import files
from typing import Any

from service.app_state import problems
from service.job_schemas import ProblemDocument
from service.middleware import HEALTH_PATHS
from service.origin_guard import SAFE_METHODS

_PROBLEM = "application/problem+json"


def complete_openapi(document: dict[str, Any]) -> None:
    """Replace FastAPI's validation errors with problem documents and add examples, in place."""
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
        del responses["422"]  # FastAPI's HTTPValidationError
    if not path.startswith("/"):  # a webhook
        return
    if "security" in operation:  # keys are optional: the service may be configured without
        operation["security"] = [{}, *operation["security"]]
    contents = [response.get("content", {}).get(_PROBLEM, {}) for response in responses.values()]
    codes = [code for content in contents for code in content.get("examples", {})]
    # Problems raised before all routes, by service.origin_guard and service.middleware.
    codes.append("malformed_request")
    if path not in HEALTH_PATHS:
        codes += ["host_refused", "overloaded"]
    if method.upper() not in SAFE_METHODS:
        codes += ["origin_refused", "disk_full"]
    for status, response in problems(*dict.fromkeys(codes)).items():
        responses[str(status)] = response


def _add_examples(responses: dict[str, Any], operation: str, captured: dict[str, Any]) -> None:
    """Add the examples captured for an operation and status; those of files are also keyed by content type."""
    for status, response in responses.items():
        for content_type, content in response.get("content", {}).items():
            response_key = f"{operation} {status}"
            if named := captured.get(f"{response_key} {content_type}", captured.get(response_key)):
                content["examples"] = {name: {"value": value} for name, value in named.items()}
