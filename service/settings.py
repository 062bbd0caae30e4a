"""Every setting, read once from the environment (MMAD_...) and frozen."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

GIB = 1024**3


class Settings(BaseSettings):
    """What API and workers share. Each field is the environment variable MMAD_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="MMAD_", frozen=True, extra="ignore", populate_by_name=True)

    data_dir: Path = Field(
        default_factory=lambda: Path.home() / ".local/share/mmad",
        description="Where videos, results and the embedded Redis keep their files.",
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("MMAD_REDIS_URL", "REDIS_URL"),
        description="Redis to use; mmad serve starts a private one where this is not set.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port the API listens on.")
    bundle: Path | None = Field(default=None, description="Bundle folder; the shipped one where not set.")
    engine: Literal["auto", "openvino", "onnx", "torch"] = Field(
        default="auto", description="What runs the network; auto takes the fastest installed."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where the network runs.")
    max_upload_bytes: int = Field(default=2 * GIB, gt=0, description="The largest video accepted.")
    max_duration_s: float = Field(default=600.0, gt=0, description="The longest video accepted.")
    max_pixels: int = Field(default=8192 * 4320, gt=0, description="The largest picture accepted, in pixels.")
    job_timeout_s: int = Field(default=3600, gt=0, description="A job that takes longer is stopped.")

    @property
    def store_dir(self) -> Path:
        """The folder of the store."""
        return self.data_dir / "store"
