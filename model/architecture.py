"""What a network is built of, as numbers. Read without torch: a bundle carries it."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class Part(BaseModel):
    """Frozen and strict: a misspelt setting fails at load."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BackboneBase(Part):
    """What every kind of backbone has: it sees RGB, or RGB and how grey differs from `lags` frames before."""

    kind: str
    inputs: Literal["rgb", "rgb_differences"] = "rgb"
    lags: tuple[int, ...] = (1, 4)
    tubelet_size: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _lags_ascend(self) -> Self:
        if not self.lags or self.lags[0] < 1 or list(self.lags) != sorted(set(self.lags)):
            raise ValueError(f"lags must be ascending numbers of frames from 1 on, not {self.lags}")
        return self

    @property
    def channels(self) -> int:
        """Channels of a picture with what `inputs` adds."""
        return 3 + (len(self.lags) if self.inputs == "rgb_differences" else 0)


class FinderConfig(Part):
    """What finds joints in every picture: a pyramid of convolutions, and what their movements count.

    `widths` has the stem's channels and each stage's; every one halves the picture. Heatmaps have `fused` channels
    before them and the first stage's size. `moves` is the factor of joints' movements.
    """

    joints: int = Field(default=25, gt=0)
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

    `stem` makes patches to tokens: one linear map, as pretrained weights have it; strided 3 x 3 convolutions; or
    heatmaps of the joints that `finder` finds, with how they moved since `lags` frames before.
    `position_grid` is the patch grid the sinusoid position table is made for; another input grid takes
    it resized bicubically, as weights pretrained at 224 pixels (a 14 x 14 grid) expect.
    `final_norm` is off for weights fine-tuned with mean pooling, which normalise after the mean.
    """

    kind: Literal["videomae"] = "videomae"
    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch_size: int = Field(default=16, gt=0)
    stem: Literal["linear", "convolutions", "heatmaps"] = "linear"
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
        if self.stem == "heatmaps" and self.inputs != "rgb":
            raise ValueError(f"a stem of heatmaps finds joints in RGB: inputs must be rgb, not {self.inputs}")
        return self

    @model_validator(mode="after")
    def _stem_reaches_the_grid(self) -> Self:
        size = self.patch_size
        if self.stem == "convolutions" and (size < 2 or size & (size - 1) or self.embed_dim % (size // 2)):
            raise ValueError(
                "a stem of convolutions halves the picture down to patch_size and doubles its width up to embed_dim: "
                f"patch_size {size} must be a power of 2, and embed_dim {self.embed_dim} a multiple of half of it"
            )
        return self


class ShiftConfig(BackboneBase):
    """2-D residual stages on each tubelet, with a temporal shift: a convolutional control for the transformer.

    `widths` has the stem's channels and each stage's; every one halves the picture. `blocks` has one number a stage.
    `shift_fraction` of the channels is taken from the tubelet after, and as much from the one before.
    Places are pooled by `queries` learned attentions of `query_width` values each, to `embed_dim` features;
    `position_grid` is the grid its positions are learned on. Behind that, temporal blocks of these `dilations`,
    in tubelets.
    """

    kind: Literal["shift"]
    widths: tuple[Annotated[int, Field(gt=0)], ...] = (24, 48, 96, 160)
    blocks: tuple[Annotated[int, Field(gt=0)], ...] = (2, 2, 2)
    shift_fraction: float = Field(default=0.125, ge=0, le=0.5)
    queries: int = Field(default=6, gt=0)
    query_width: int = Field(default=64, gt=0)
    position_grid: int = Field(default=7, gt=0)
    embed_dim: int = Field(default=192, gt=0)
    dilations: tuple[Annotated[int, Field(gt=0)], ...] = (1, 2, 4, 1)

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if not self.blocks or len(self.widths) != len(self.blocks) + 1:
            raise ValueError(
                f"widths has {len(self.widths)} values for {len(self.blocks)} stages: "
                "it takes the stem's and each stage's"
            )
        return self

    @property
    def patch_size(self) -> int:
        """Pixels from one place of the last stage to the next."""
        return int(2 ** len(self.widths))

    @property
    def depth(self) -> int:
        """Residual blocks of all stages."""
        return sum(self.blocks)


class PoseConfig(FinderConfig, BackboneBase):
    """Joints of every frame as FinderConfig says, and temporal blocks that read them: no picture goes further.

    `lags` say since when movements of joints are told; the factor of places is 4.
    """

    kind: Literal["pose"]
    inputs: Literal["rgb"] = "rgb"
    tubelet_size: Literal[1] = 1
    embed_dim: int = Field(default=192, gt=0)
    dilations: tuple[Annotated[int, Field(gt=0)], ...] = (1, 2, 4, 8, 16, 1)

    @property
    def patch_size(self) -> int:
        """Pixels from one place of the last stage to the next."""
        return int(2 ** len(self.widths))

    @property
    def depth(self) -> int:
        """Temporal blocks."""
        return len(self.dilations)


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


def _kind_of(backbone: Any) -> Any:
    if isinstance(backbone, dict):
        return backbone.get("kind", "videomae")
    return getattr(backbone, "kind", None)


AnyBackbone = Annotated[
    Annotated[BackboneConfig, Tag("videomae")]
    | Annotated[ShiftConfig, Tag("shift")]
    | Annotated[PoseConfig, Tag("pose")],
    Discriminator(
        _kind_of,
        custom_error_type="backbone_kind",
        custom_error_message="a backbone is of kind 'videomae', 'shift' or 'pose'",
    ),
]


class Architecture(Part):
    """The whole network. A backbone that does not say its kind is VideoMAE's, as bundles had none other once."""

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
    def finds_joints(self) -> bool:
        """Whether the backbone reads joints that it finds in the pictures, and nothing else."""
        return self.backbone.kind == "pose" or getattr(self.backbone, "stem", None) == "heatmaps"
