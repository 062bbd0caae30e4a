"""Every error of the catalogue as a client receives it: status, code, detail, headers and documentation."""

from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from service.errors import CATALOGUE
from tests.fake_service import assert_problem
from tests.provoked_errors import PROVOKERS, InProcessService


def test_every_error_code_has_a_provoker() -> None:
    assert set(PROVOKERS) == set(CATALOGUE)


@pytest.mark.parametrize("code", list(PROVOKERS))
def test_error_response_matches_catalogue_and_openapi(
    code: str, tmp_path: Path, bundle: Bundle, redis_url: str, api_description: dict[str, Any]
) -> None:
    response = PROVOKERS[code](InProcessService(tmp_path, bundle, redis_url))
    detail = assert_problem(response, code)
    assert len(detail.split()) >= 5
    assert str(tmp_path) not in response.text
    assert ("retry-after" in response.headers) == (CATALOGUE[code].retry_after_s is not None)
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    request = response.request
    if code not in ("not_found", "method_not_allowed"):
        route = "/".join("{job_id}" if index == 2 else part for index, part in enumerate(request.url.path.split("/")))
        documented = api_description["paths"][route][request.method.lower()]["responses"][str(response.status_code)]
        assert f"`{code}`" in documented["description"]
