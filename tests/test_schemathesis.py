"""Schemathesis: valid and invalid requests generated from the OpenAPI document, sent to a running service."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mmad.client import Client
from service.keys import OwnLimits, create
from tests.conftest import Service, start_service

HERE = Path(__file__).parent
_SEED = "1"


def test_responses_conform_to_openapi(tmp_path: Path, clip: Path, campaign: bool) -> None:
    """All checks are on: no 5xx; no undocumented status, content type, header or body; no invalid or unauthenticated
    request is accepted. `make test ARGS="-n 0 -s tests/test_schemathesis.py"` shows the summary."""
    limits = OwnLimits(requests_per_minute=1_000_000, max_jobs=1000)
    _, key = create(tmp_path / "keys.json", "schemathesis", limits)
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_API_KEYS_FILE=str(tmp_path / "keys.json"))
    try:
        with Client(service.url, api_key=key) as client:
            jobs = [client.submit(clip, keep_video=True).id for _ in range(6)]
            for job_id in jobs:
                client.wait(job_id)
        _check(service, key, jobs, clip, max_examples=50 if campaign else 5)
    finally:
        service.stop()


def _check(service: Service, key: str, jobs: list[str], clip: Path, max_examples: int) -> None:
    environment = {
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
        "PYTHONPATH": str(HERE.parent),
        "PYTHONHASHSEED": _SEED,  # the hooks use hash()
        "MMAD_TEST_JOBS": ",".join(jobs),
        "MMAD_TEST_VIDEO": str(clip),
    }
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml"),
        "run", f"{service.url}/openapi.json", "--checks", "all", "--max-examples", str(max_examples), "--seed", _SEED,
        "--header", f"Authorization: Bearer {key}",
    ]  # fmt: skip
    completed = subprocess.run(
        command, cwd=service.data_dir, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )
    sys.stdout.write(completed.stdout)
    assert completed.returncode == 0, completed.stdout
    generated = re.search(r"(\d+) generated", completed.stdout)
    assert generated
    assert int(generated[1]) > 500
    tested = re.search(r"Tested: (\d+)", completed.stdout)
    assert tested
    assert int(tested[1]) == 16
