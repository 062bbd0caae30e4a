"""Adapters compared with public code or with their equation."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from model.adapters import DualPathAdapter, Grid, StandardAdapter, TemporalInformativeAdapter, TwoDownAdapter
from model.architecture import SIZES, AdapterConfig
from model.backbone import Backbone

GRID = Grid(clips=3, time=2, height=4, width=5)


@pytest.mark.shared("reference/adapters.pt")
@pytest.mark.parametrize(("name", "kind"), [("plain", StandardAdapter), ("tia", TemporalInformativeAdapter)])
def test_adapter_equals_published_code(shared: Path, name: str, kind: type[torch.nn.Module]) -> None:
    case = torch.load(shared / "reference/adapters.pt", weights_only=True)[name]
    adapter = kind(384, AdapterConfig())
    adapter.load_state_dict(case["state_dict"])
    grid = Grid(clips=case["temporal_size"] // 8, time=8, height=case["h"], width=case["w"])
    with torch.inference_mode():
        torch.testing.assert_close(adapter(case["x"], grid), case["y"], atol=1e-5, rtol=0)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == case["n_params"]


def random_dual_path(config: AdapterConfig) -> DualPathAdapter:
    torch.manual_seed(0)
    adapter = DualPathAdapter(16, config)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return adapter


@pytest.mark.parametrize("spatial", [1, 3])
@pytest.mark.parametrize("temporal", [3, 5])
def test_dual_path_adapter_equals_its_equation(spatial: int, temporal: int) -> None:
    """Computed position by position: h = GELU(down x), s = SDW(h) + h, t = TDW(h) + h, x + alpha up [beta s; gamma t]."""
    adapter = random_dual_path(AdapterConfig(spatial_kernel=spatial, temporal_kernel=temporal))
    windows, (count, time, height, width) = 2, (GRID.clips, GRID.time, GRID.height, GRID.width)
    x = torch.randn(windows * count, time * height * width, 16)
    video = x.reshape(windows, count * time, height, width, 16)
    h = F.gelu(video @ adapter.down_proj.weight.T + adapter.down_proj.bias)
    s, t = h.clone(), h.clone()
    for frame in range(count * time):
        for row in range(height):
            for column in range(width):
                position = (slice(None), frame, row, column)
                s[position] = s[position] + adapter.spatial_dwconv.bias
                t[position] = t[position] + adapter.temporal_dwconv.bias
                for i in range(spatial):
                    for j in range(spatial):
                        r, c = row + i - spatial // 2, column + j - spatial // 2
                        if 0 <= r < height and 0 <= c < width:
                            s[position] = s[position] + adapter.spatial_dwconv.weight[:, 0, i, j] * h[:, frame, r, c]
                for k in range(temporal):
                    f = frame + k - temporal // 2
                    if 0 <= f < count * time:
                        t[position] = t[position] + adapter.temporal_dwconv.weight[:, 0, k] * h[:, f, row, column]
    joined = torch.cat([adapter.beta * s, adapter.gamma * t], dim=-1)
    expected = video + adapter.alpha * (joined @ adapter.up_proj.weight.T + adapter.up_proj.bias)
    torch.testing.assert_close(adapter(x, GRID), expected.reshape(x.shape), atol=1e-5, rtol=1e-5)


def test_two_down_adapter_equals_its_equation() -> None:
    """Each path has its own bottleneck; both share the up-projection."""
    torch.manual_seed(0)
    adapter = TwoDownAdapter(16, AdapterConfig(kind="dsta_two_down"))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(GRID.clips, GRID.time * GRID.height * GRID.width, 16)
    a, b = F.gelu(adapter.spatial_down_proj(x)), F.gelu(adapter.temporal_down_proj(x))
    pictures = a.reshape(-1, GRID.height, GRID.width, 4).permute(0, 3, 1, 2)
    padded = F.pad(pictures, (1, 1, 1, 1))
    convolved = sum(
        adapter.spatial_dwconv.weight[:, 0, i, j, None, None] * padded[:, :, i : i + GRID.height, j : j + GRID.width]
        for i in range(3)
        for j in range(3)
    )
    mixed = torch.einsum("oc,nchw->nohw", adapter.spatial_conv.weight[:, :, 0, 0], convolved)
    s = a + mixed.permute(0, 2, 3, 1).reshape(a.shape)
    series = F.pad(b.reshape(GRID.clips * GRID.time, -1, 4), (0, 0, 0, 0, 1, 1))
    length = GRID.clips * GRID.time
    t = b + sum(series[k : k + length] * adapter.temporal_dwconv.weight[:, 0, k] for k in range(3)).reshape(b.shape)
    joined = torch.cat([adapter.beta * s, adapter.gamma * t], dim=-1)
    torch.testing.assert_close(adapter(x, GRID), x + adapter.alpha * adapter.up_proj(joined), atol=1e-5, rtol=1e-5)


# In 2**20, the unit of the paper's table 4, for VideoMAE-S: 12 blocks of width 384. As in docs/architecture.md.
TABLE_4 = [
    ("none", 3, 0.000),
    ("standard", 3, 0.849),
    ("tia", 3, 0.960),
    ("dsta", 1, 1.278),
    ("dsta", 3, 1.287),
    ("dsta_two_down", 1, 1.804),
    ("dsta_two_down", 3, 1.813),
]


@pytest.mark.parametrize(("kind", "spatial", "millions"), TABLE_4)
def test_adapter_weight_counts_match_documentation(kind: str, spatial: int, millions: float) -> None:
    config = AdapterConfig.model_validate({"kind": kind, "spatial_kernel": spatial})
    with torch.device("meta"):
        backbone = Backbone(SIZES["small"], config, 16, 160, 160)
    count = sum(weights.numel() for name, weights in backbone.named_parameters() if "adapter" in name)
    assert count / 2**20 == pytest.approx(millions, abs=5e-4)
    row = f"| `{kind}` | {spatial} | {count / 2**20:.3f} |"
    assert row in (Path(__file__).parents[1] / "docs/architecture.md").read_text()


@pytest.mark.parametrize("kind", [TemporalInformativeAdapter, DualPathAdapter, TwoDownAdapter])
def test_temporal_mixing_crosses_clips_but_not_windows(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    adapter = kind(16, AdapterConfig())
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2 * GRID.clips, GRID.time * GRID.height * GRID.width, 16)
    changed = x.clone()
    changed[0, -1] += 1  # the last token of the first clip's last time
    difference = (adapter(changed, GRID) - adapter(x, GRID)).abs().amax(dim=(1, 2))
    assert (difference[:2] > 0).all()  # its own clip, and the next one
    assert (difference[2:] == 0).all()  # the clip after that, and the other window


@pytest.mark.parametrize("kind", [StandardAdapter, TemporalInformativeAdapter, DualPathAdapter, TwoDownAdapter])
def test_new_adapter_is_identity(kind: type[torch.nn.Module]) -> None:
    x = torch.randn(GRID.clips, GRID.time * GRID.height * GRID.width, 16)
    torch.testing.assert_close(kind(16, AdapterConfig())(x, GRID), x, atol=0, rtol=0)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="spatial_kernel must be odd"):
        AdapterConfig(spatial_kernel=2)
