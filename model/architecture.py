"""Configuration of a network's architecture, as stored in a bundle. Does not import torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from model.taxonomy import Section


class BackboneBase(Section):
    """Settings of all backbones. `lags` are the distances in frames of displacements of keypoints."""

    kind: str
    inputs: Literal["rgb"] = Field(default="rgb", exclude=True)  # there was another kind: older bundles name it
    lags: tuple[int, ...] = (1, 4)
    tubelet_size: PositiveInt = 2

    @model_validator(mode="after")
    def _lags_ascend(self) -> Self:
        if not self.lags or self.lags[0] < 1 or list(self.lags) != sorted(set(self.lags)):
            raise ValueError(f"lags must be ascending numbers of frames from 1 on, not {self.lags}")
        return self


class FinderConfig(Section):
    """The pose estimator: a convolutional feature pyramid that finds keypoints in every frame.

    `widths` are the channels of the stem and of each stage; each halves the resolution. Heatmaps are computed from
    `fused` channels, at the resolution of the first stage. Displacements are scaled by `moves`.
    """

    # Bundles of version 0.1 say `joints`.
    keypoints: PositiveInt = Field(default=25, validation_alias=AliasChoices("keypoints", "joints"))
    widths: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    fused: PositiveInt = 48
    moves: PositiveFloat = 20.0

    @model_validator(mode="after")
    def _has_stages(self) -> Self:
        if len(self.widths) < 2:
            raise ValueError(f"widths takes the stem's and at least one stage's, not {self.widths}")
        return self


class BackboneConfig(BackboneBase):
    """VideoMAE's vision transformer.

    `stem` turns patches into tokens: a linear map, as in pretrained weights, or heatmaps of the keypoints that `finder`
    finds and of their displacements over `lags` frames. The position table is made for a square grid of this side (14
    for weights pretrained at 224 pixels) and resized bicubically. `final_norm` is off for weights fine-tuned with mean
    pooling, which normalise after the mean.
    """

    kind: Literal["videomae"] = "videomae"
    embed_dim: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    mlp_ratio: PositiveFloat = 4.0
    patch_size: PositiveInt = 16
    stem: Literal["linear", "heatmaps"] = "linear"
    finder: FinderConfig | None = None
    position_grid: PositiveInt = 14
    norm_eps: PositiveFloat = 1e-6
    final_norm: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of heads {self.heads}")
        if (self.stem == "heatmaps") != (self.finder is not None):
            raise ValueError("a stem of heatmaps needs a finder, and no other stem has one: write finder: {}")
        return self


class PoseConfig(FinderConfig, BackboneBase):
    """A backbone of keypoints only: the pose estimator, then a temporal block per dilation, which is in steps."""

    kind: Literal["pose"]
    tubelet_size: Literal[1] = 1
    embed_dim: PositiveInt = 192
    dilations: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16, 1)

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


class AdapterConfig(Section):
    """The adapter after every block of the backbone; its hidden width is `embed_dim * ratio`."""

    kind: Literal["none", "standard", "tia", "dsta", "dsta_two_down"] = "dsta"
    ratio: PositiveFloat = 0.25
    temporal_kernel: PositiveInt = 3
    spatial_kernel: PositiveInt = 3

    @model_validator(mode="after")
    def _odd_kernels(self) -> Self:
        for name in ("temporal_kernel", "spatial_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, not {getattr(self, name)}")
        return self


class HeadConfig(Section):
    """ActionFormer: embedding convolutions, transformer stem and branch, and the shared head.

    The pyramid has `1 + branch_blocks` levels with strides 1, 2, 4 ... in steps of the window.
    `path_dropout` above 0 adds ActionFormer's learned scale to each residual path.
    `attention_window` is the number of steps of its own level that a step attends to, half on either side: one number
    for all levels, or one per level, starting with the stem; -1, 0 or 1 is full attention.
    `position_steps` above 0 adds sinusoidal position encodings made for that many steps.
    """

    channels: PositiveInt = 256
    heads: PositiveInt = 4
    embed_convs: PositiveInt = 2
    stem_blocks: NonNegativeInt = 2
    branch_blocks: NonNegativeInt = 5
    kernel_size: PositiveInt = 3
    head_convs: NonNegativeInt = 2
    path_dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_window: int | tuple[int, ...] = -1
    position_steps: NonNegativeInt = 0
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
    # Older bundles have no kind.
    return backbone.get("kind", "videomae") if isinstance(backbone, dict) else getattr(backbone, "kind", None)


AnyBackbone = Annotated[
    Annotated[BackboneConfig, Tag("videomae")] | Annotated[PoseConfig, Tag("pose")],
    Discriminator(
        _get_kind, custom_error_type="backbone_kind", custom_error_message="a backbone is of kind 'videomae' or 'pose'"
    ),
]


class Architecture(Section):
    """The whole network."""

    backbone: AnyBackbone
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _adapters_have_blocks(self) -> Self:
        if self.backbone.kind == "pose" and self.adapter.kind != "none":
            raise ValueError(
                f"adapter.kind {self.adapter.kind!r} does not go with backbone.kind 'pose', which has no adapters: "
                "set it to 'none'"
            )
        return self

    @property
    def finds_keypoints(self) -> bool:
        """True for backbones that use only the keypoints of a frame."""
        return self.backbone.kind == "pose" or self.backbone.stem == "heatmaps"
