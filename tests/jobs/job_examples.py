"""Jobs created without the HTTP API."""

from typing import Any

from service.job_schemas import JobOptions
from service.jobs import ANONYMOUS_OWNER, Jobs, Record, Upload, job_key, new_job_id

UPLOAD = Upload(bytes=5, sha256="ab")


def make_job(jobs: Jobs, owner: str = ANONYMOUS_OWNER, retention_s: int = 60, **options: Any) -> Record:
    job_id = new_job_id()
    jobs.store.put(job_key(job_id, "video"), b"bytes")
    return jobs.create(job_id, UPLOAD, JobOptions(**options), retention_s=retention_s, owner=owner)
