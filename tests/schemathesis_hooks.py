"""Schemathesis hooks that insert ids of existing jobs and a video into generated requests."""

import os
from pathlib import Path
from typing import Any

import schemathesis

# Comma-separated job ids, and the path of a video.
JOBS = os.environ["MMAD_TEST_JOBS"].split(",")
VIDEO = Path(os.environ["MMAD_TEST_VIDEO"]).read_bytes()


@schemathesis.hook
def map_path_parameters(_context: Any, drawn: Any) -> Any:
    """Replace every second job id by that of an existing job."""
    if drawn and "job_id" in drawn and hash(str(drawn["job_id"])) % 2:
        drawn["job_id"] = JOBS[len(str(drawn["job_id"])) % len(JOBS)]
    return drawn


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Replace every second upload by a video."""
    if context.operation.path == "/detect" and hash(str(body)) % 2:
        if isinstance(body, dict) and "file" in body:
            return {**body, "file": VIDEO}
        if isinstance(body, bytes):
            return VIDEO
    return body
