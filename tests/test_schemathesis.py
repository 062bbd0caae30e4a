"""Hundreds of requests made of openapi.yaml, right and wrong, sent to a running service; every answer is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mmad.client import Client
from tests.conftest import Service

HERE = Path(__file__).parent
_SEED = "1"


def test_every_answer_is_as_documented(service: Service, clip: Path) -> None:
    """With all checks on: no 5xx, no status, content type, header or body that openapi.yaml does not have, nothing
    accepted that it forbids. `make test ARGS="-s tests/test_schemathesis.py"` shows the summary."""
    with Client(service.url) as client:
        jobs = [client.submit(clip, keep_video=True, idempotency_key=f"s{number}").id for number in range(6)]
        for job_id in jobs:
            client.wait(job_id)
    environment = {
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
        "PYTHONPATH": str(HERE.parent),
        "PYTHONHASHSEED": _SEED,  # what the hooks do follows the seed too
        "MMAD_TEST_JOBS": ",".join(jobs),
        "MMAD_TEST_VIDEO": str(clip),
    }
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml"),
        "run", f"{service.url}/openapi.json", "--checks", "all", "--max-examples", "15", "--seed", _SEED,
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=240)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated
    assert int(generated[1]) > 500
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested
    assert int(tested[1]) == 15
