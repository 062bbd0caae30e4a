"""Configuration of a network's architecture, as stored in a bundle. Does not import torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class ConfigSection(BaseModel):
    """Base class of the configuration. Frozen and strict: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BackboneBase(ConfigSection):
    """Settings of all backbones. `lags` are the distances in frames of displacements of keypoints."""

    kind: str
    inputs: Literal["rgb"] = Field(default="rgb", exclude=True)  # there was another kind: older bundles name it
    lags: tuple[int, ...] = (1, 4)
    tubelet_size: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _lags_ascend(self) -> Self:
        if not self.lags or self.lags[0] < 1 or list(self.lags) != sorted(set(self.lags)):
            raise ValueError(f"lags must be ascending numbers of frames from 1 on, not {self.lags}")
        return self


class FinderConfig(ConfigSection):
    """The pose estimator: a convolutional feature pyramid that finds keypoints in every frame.

    `widths` are the channels of the stem and of each stage; each of them halves the resolution. `fused` is the number
    of channels before the heatmaps, which have the resolution of the first stage. `moves` is the factor on the
    displacements of keypoints.
    """

    # Bundles of version 0.1 say `joints`.
    keypoints: int = Field(default=25, gt=0, validation_alias=AliasChoices("keypoints", "joints"))
    widths: tuple[Annotated[int, Field(gt=0)], ...] = (16, 32, 64, 128)
    fused: int = Field(default=48, gt=0)
    moves: float = Field(default=20.0, gt=0)

    @model_validator(mode="after")
    def _has_stages(self) -> Self:
        if len(self.widths) < 2:
            raise ValueError(f"widths takes the stem's and at least one stage's, not {self.widths}")
        return self


class BackboneConfig(BackboneBase):
    """VideoMAE's vision transformer.

    `stem` turns patches into tokens: a linear map, as in pretrained weights, or heatmaps of the keypoints that `finder`
    finds and of their displacements over `lags` frames.
    `position_grid` is the side of the patch grid that the sinusoidal position table is made for. For another grid the
    table is resized bicubically, as weights pretrained at 224 pixels (a 14 x 14 grid) expect.
    `final_norm` is off for weights fine-tuned with mean pooling, which normalise after the mean.
    """

    kind: Literal["videomae"] = "videomae"
    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch_size: int = Field(default=16, gt=0)
    stem: Literal["linear", "heatmaps"] = "linear"
    finder: FinderConfig | None = None
    position_grid: int = Field(default=14, gt=0)
    norm_eps: float = Field(default=1e-6, gt=0)
    final_norm: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _heatmaps_have_a_finder(self) -> Self:
        if (self.stem == "heatmaps") != (self.finder is not None):
            raise ValueError("a stem of heatmaps needs a finder, and no other stem has one: write finder: {}")
        return self


class PoseConfig(FinderConfig, BackboneBase):
    """A backbone of keypoints only: the pose estimator of FinderConfig, then temporal blocks on the keypoints.

    `dilations` has one temporal block per entry, in steps. Positions of keypoints are scaled by a factor of 4.
    """

    kind: Literal["pose"]
    tubelet_size: Literal[1] = 1
    embed_dim: int = Field(default=192, gt=0)
    dilations: tuple[Annotated[int, Field(gt=0)], ...] = (1, 2, 4, 8, 16, 1)

    @property
    def patch_size(self) -> int:
        """Pixels per position of the last stage."""
        return int(2 ** len(self.widths))

    @property
    def depth(self) -> int:
        """Number of temporal blocks."""
        return len(self.dilations)


SIZES = {
    "tiny": BackboneConfig(embed_dim=192, depth=12, heads=3),
    "small": BackboneConfig(embed_dim=384, depth=12, heads=6),
    "base": BackboneConfig(embed_dim=768, depth=12, heads=12),
    "large": BackboneConfig(embed_dim=1024, depth=24, heads=16),
    "huge": BackboneConfig(embed_dim=1280, depth=32, heads=16),
}


class AdapterConfig(ConfigSection):
    """The adapter after every block of the backbone; its hidden width is `embed_dim * ratio`."""

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


class HeadConfig(ConfigSection):
    """ActionFormer: embedding convolutions, transformer stem and branch, and the shared head.

    The pyramid has `1 + branch_blocks` levels with strides 1, 2, 4 ... in steps of the window.
    `path_dropout` above 0 adds ActionFormer's learned scale to each residual path.
    `attention_window` is the number of steps of its own level that a step attends to, half on either side: one number
    for all levels, or one per level, starting with the stem; -1, 0 or 1 is full attention.
    `position_steps` above 0 adds sinusoidal position encodings made for that many steps.
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
            raise ValueError(f"attention_window has {len(self.attention_window)} values for {len(self.strides)} levels")
        return self

    def get_attention_window(self, level: int) -> int:
        """Return the attention window of a level; level 0 is the finest."""
        window = self.attention_window
        return window[level] if isinstance(window, tuple) else window

    @property
    def strides(self) -> tuple[int, ...]:
        """Number of steps between points, for each level."""
        return tuple(2**level for level in range(self.branch_blocks + 1))


def _get_kind(backbone: Any) -> Any:
    if isinstance(backbone, dict):
        return backbone.get("kind", "videomae")
    return getattr(backbone, "kind", None)


AnyBackbone = Annotated[
    Annotated[BackboneConfig, Tag("videomae")] | Annotated[PoseConfig, Tag("pose")],
    Discriminator(
        _get_kind, custom_error_type="backbone_kind", custom_error_message="a backbone is of kind 'videomae' or 'pose'"
    ),
]


class Architecture(ConfigSection):
    """The whole network. A backbone without a kind is VideoMAE's, for compatibility with older bundles."""

    backbone: AnyBackbone
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _adapters_have_blocks(self) -> Self:
        kind = self.backbone.kind
        if kind != "videomae" and self.adapter.kind != "none":
            raise ValueError(
                f"adapter.kind {self.adapter.kind!r} does not go with backbone.kind {kind!r}, which has no adapters: "
                "set it to 'none'"
            )
        return self

    @property
    def finds_keypoints(self) -> bool:
        """True for backbones that estimate keypoints in each frame and use nothing else of it."""
        return self.backbone.kind == "pose" or getattr(self.backbone, "stem", None) == "heatmaps"
