"""What a network is built of, as numbers. Read without torch: a bundle carries it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """Frozen and strict: a misspelt setting fails at load."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BackboneConfig(Part):
    """VideoMAE's vision transformer.

    `position_grid` is the patch grid the sinusoid position table is made for; another input grid takes
    it resized bicubically, as weights pretrained at 224 pixels (a 14 x 14 grid) expect.
    `final_norm` is off for weights fine-tuned with mean pooling, which normalise after the mean.
    """

    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch_size: int = Field(default=16, gt=0)
    tubelet_size: int = Field(default=2, gt=0)
    position_grid: int = Field(default=14, gt=0)
    norm_eps: float = Field(default=1e-6, gt=0)
    final_norm: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of heads {self.heads}")
        return self


SIZES = {
    "tiny": BackboneConfig(embed_dim=192, depth=12, heads=3),
    "small": BackboneConfig(embed_dim=384, depth=12, heads=6),
    "base": BackboneConfig(embed_dim=768, depth=12, heads=12),
    "large": BackboneConfig(embed_dim=1024, depth=24, heads=16),
    "huge": BackboneConfig(embed_dim=1280, depth=32, heads=16),
}


class AdapterConfig(Part):
    """What sits behind every block; hidden width is `embed_dim * ratio`."""

    kind: Literal["none", "standard", "tia", "dsta", "dsta_two_down"] = "dsta"
    ratio: float = Field(default=0.25, gt=0)
    temporal_kernel: int = Field(default=3, gt=0)
    spatial_kernel: int = Field(default=3, gt=0)

    @model_validator(mode="after")
    def _odd_kernels(self) -> Self:
        for name in ("temporal_kernel", "spatial_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, not {getattr(self, name)}")
        return self


class HeadConfig(Part):
    """ActionFormer: embedding convolutions, transformer stem and branch, and the shared head.

    The pyramid has `1 + branch_blocks` levels with strides 1, 2, 4 ... in steps of the window.
    `path_dropout` above 0 adds ActionFormer's learned scale to each residual path.
    `attention_window` above 1 lets a step attend to half as many steps on either side, of its own level; one number
    for all levels, or one for each, the stem's first; -1 or 0 is full attention.
    `position_steps` above 0 adds a table of sinusoids made for that many steps.
    """

    channels: int = Field(default=256, gt=0)
    heads: int = Field(default=4, gt=0)
    embed_convs: int = Field(default=2, ge=1)
    stem_blocks: int = Field(default=2, ge=0)
    branch_blocks: int = Field(default=5, ge=0)
    kernel_size: int = Field(default=3, gt=0)
    head_convs: int = Field(default=2, ge=0)
    path_dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_window: int | tuple[int, ...] = -1
    position_steps: int = Field(default=0, ge=0)
    prior_probability: float = Field(default=0.01, gt=0, lt=1)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} is no multiple of heads {self.heads}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}")
        if isinstance(self.attention_window, tuple) and len(self.attention_window) != len(self.strides):
            raise ValueError(
                f"attention_window has {len(self.attention_window)} values for {len(self.strides)} levels"
            )
        return self

    def window_of(self, level: int) -> int:
        """The attention window of a level, the finest being 0."""
        window = self.attention_window
        return window[level] if isinstance(window, tuple) else window

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps between the points of each level."""
        return tuple(2**level for level in range(self.branch_blocks + 1))


class Architecture(Part):
    """The whole network."""

    backbone: BackboneConfig
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = HeadConfig()
