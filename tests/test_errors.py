"""Every error of the catalogue as a caller meets it: status, code, words that name what to do, documented."""

from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from service.errors import CATALOGUE
from tests.fake_service import assert_problem
from tests.provoked_errors import PROVOKERS, InProcessService


def test_every_code_is_provoked() -> None:
    assert set(PROVOKERS) == set(CATALOGUE)


@pytest.mark.parametrize("code", list(PROVOKERS))
def test_an_error_as_its_caller_meets_it(
    code: str, tmp_path: Path, bundle: Bundle, redis_url: str, api_description: dict[str, Any]
) -> None:
    answer = PROVOKERS[code](InProcessService(tmp_path, bundle, redis_url))
    detail = assert_problem(answer, code)
    assert len(detail.split()) >= 5
    assert str(tmp_path) not in answer.text
    assert ("retry-after" in answer.headers) == (CATALOGUE[code].retry_after_s is not None)
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    request = answer.request
    if code not in ("not_found", "method_not_allowed"):
        shape = "/".join("{job_id}" if place == 2 else part for place, part in enumerate(request.url.path.split("/")))
        documented = api_description["paths"][shape][request.method.lower()]["responses"][str(answer.status_code)]
        assert f"`{code}`" in documented["description"]
