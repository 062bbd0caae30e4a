"""All settings, read from the environment (MMAD_...) and immutable."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GIB = 1024**3
DAY_S = 24 * 3600

# Host header without a port; IPv6 addresses in brackets.
HostName = Annotated[str, Field(pattern=r"^(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)$")]


DEFAULT_PORT = 8000
MAX_PREFIX_CHARACTERS = 200
# Segments that need no escaping in paths, links and pages; no empty segments and no dot segments.
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
# Kubernetes sets <SERVICE>_PORT to such an address in all containers: MMAD_PORT for a Service named mmad.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+", re.IGNORECASE)
# Home directory of users without one; nothing can be created there.
NO_HOME = Path(os.devnull)


def service_link() -> str | None:
    """Return MMAD_PORT if Kubernetes has set it to a service link, which Settings ignores; otherwise None."""
    value = os.environ.get("MMAD_PORT", "")
    return value if _SERVICE_LINK.fullmatch(value) else None


def _default_data_dir() -> Path:
    try:
        return Path.home() / ".local/share/mmad"
    except RuntimeError:  # neither HOME nor an entry in the user database
        return NO_HOME / "mmad"


def clean_prefix(value: str) -> str:
    """Return a proxy's path prefix without its trailing slash; raises ValueError for other than plain segments."""
    prefix = value.strip().rstrip("/")
    if len(prefix) > MAX_PREFIX_CHARACTERS or not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"give a path such as /mmad: segments of A-Z a-z 0-9 . _ ~ -, {MAX_PREFIX_CHARACTERS} characters at most"
        )
    return prefix


class Settings(BaseSettings):
    """Settings of API and workers. Each field is the environment variable MMAD_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="MMAD_", frozen=True, extra="ignore", populate_by_name=True)

    data_dir: Path = Field(
        default_factory=_default_data_dir, description="Where videos, results and the embedded Redis keep their files."
    )
    redis_url: str | None = Field(
        None,
        validation_alias=AliasChoices("MMAD_REDIS_URL", "REDIS_URL"),
        description="Redis to use; mmad serve starts a private one where this is not set.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port the API listens on.")
    root_path: Annotated[str, AfterValidator(clean_prefix)] = Field(
        "",
        description="Path under which a reverse proxy shows the service, such as /mmad: links begin with it. "
        "The header X-Forwarded-Prefix of a trusted proxy goes before.",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1,::1",
        validation_alias=AliasChoices("MMAD_FORWARDED_ALLOW_IPS", "FORWARDED_ALLOW_IPS"),
        description="Addresses and networks of proxies whose X-Forwarded-Prefix, -Proto and -For are believed, with "
        "commas between; * for all.",
    )
    bundle: Path | None = Field(None, description="Bundle folder; the shipped one where not set.")
    engine: Literal["auto", "openvino", "onnx", "torch"] = Field(
        "auto", description="What runs the network; auto takes the fastest installed."
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the network runs.")
    max_upload_bytes: int = Field(8 * GIB, gt=0, description="The largest video accepted.")
    max_duration_s: float = Field(7200.0, gt=0, description="The longest video accepted.")
    max_pixels: int = Field(8192 * 4320, gt=0, description="The largest picture accepted, in pixels.")
    max_fps: float = Field(240.0, gt=0, description="The highest frame rate accepted.")
    sandbox: Literal["auto", "require", "off"] = Field(
        "auto",
        description="How videos are decoded: auto in a process with as few rights as this machine can take away; "
        "require refuses to run where that is not all of them; off in the worker's own process.",
    )
    decoder_memory_bytes: int = Field(
        2560 * 1024**2, ge=512 * 1024**2, description="Address space for decoding one video."
    )
    decoder_cpu_s: float = Field(4 * 3600.0, gt=0, description="Computing time for decoding one video.")
    decoder_stall_s: float = Field(60.0, gt=0, description="The longest a frame may take to decode.")
    max_batch_files: int = Field(20, gt=0, description="The most videos accepted in one request.")
    max_queued_jobs: int = Field(1000, gt=0, description="Jobs of all callers that have not ended.")
    max_connections: int = Field(400, gt=0, description="Connections that are answered at a time.")
    header_timeout_s: float = Field(
        15.0, gt=0, description="How long a connection may take to send the header of a request."
    )
    upload_stall_s: float = Field(30.0, gt=0, description="How long an upload may bring nothing.")
    upload_timeout_s: float = Field(3600.0, gt=0, description="How long an upload may take.")
    min_free_bytes: int = Field(
        GIB // 4, ge=0, description="Room on the store's disk that no upload may take: results need it."
    )
    job_timeout_s: int = Field(4 * 3600, gt=0, description="A job that takes longer is stopped.")
    stop_grace_s: float = Field(
        8.0, ge=0, description="How long a worker that is asked to stop goes on with the job at hand."
    )
    retention_s: int = Field(7 * DAY_S, ge=0, description="How long results are kept after the end of a job.")
    max_retention_s: int = Field(30 * DAY_S, ge=0, description="The longest retention a caller may ask for.")
    sweep_every_s: float = Field(60.0, gt=0, description="How often what has expired is removed.")
    webhook_secret: SecretStr | None = Field(
        None, description="Signs messages to callback_url (whsec_...); made in the data directory where not set."
    )
    webhook_allow_private: bool = Field(
        False, description="Whether callback_url may lead to private and loopback addresses."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How the log is written: for people, or a JSON document a line."
    )
    api_keys_file: Path | None = Field(
        None, description="Keys of callers, made by mmad keys; where set, every request needs one."
    )
    allow_open: bool = Field(False, description="Whether to listen on other than loopback addresses without keys.")
    allowed_hosts: list[HostName] = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="Names and addresses, beside that of MMAD_HOST, by which a service without keys may be called, "
        'as JSON, without ports; ["*"] allows all, also web pages whose name is made to lead here.',
    )
    requests_per_minute: int = Field(600, gt=0, description="Requests a minute of each key.")
    max_jobs_per_key: int = Field(100, gt=0, description="Jobs of a key that have not ended.")
    max_stored_bytes_per_key: int = Field(
        20 * GIB, gt=0, description="Bytes of videos that are stored for a key at a time."
    )
    cors_origins: list[str] = Field(
        [], description='Origins whose pages may call the API, as JSON: ["https://app.example.org"].'
    )

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        return DEFAULT_PORT if isinstance(value, str) and _SERVICE_LINK.fullmatch(value) else value

    @property
    def store_dir(self) -> Path:
        """Directory of the store."""
        return self.data_dir / "store"
