"""What schemathesis sends to a running service: now and then the id of a job there, and a video."""

import os
from pathlib import Path
from typing import Any

import schemathesis

# Ids of jobs, with commas between, and a file.
JOBS = os.environ["MMAD_TEST_JOBS"].split(",")
VIDEO = Path(os.environ["MMAD_TEST_VIDEO"]).read_bytes()


@schemathesis.hook
def map_path_parameters(_context: Any, drawn: Any) -> Any:
    """Every second id is one of a job that is there."""
    if drawn and "job_id" in drawn and hash(str(drawn["job_id"])) % 2:
        drawn["job_id"] = JOBS[len(str(drawn["job_id"])) % len(JOBS)]
    return drawn


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Every second upload is a video."""
    if context.operation.path == "/detect" and hash(str(body)) % 2:
        if isinstance(body, dict) and "file" in body:
            return {**body, "file": VIDEO}
        if isinstance(body, bytes):
            return VIDEO
    return body
