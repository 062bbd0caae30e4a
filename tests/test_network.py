"""Normalisation, interpolation and masking of the network, with fake backbone and head."""

import torch
from torch import Tensor, nn

from model.head import Points
from model.network import Network
from tests.untrained_bundle import small_manifest


class FakeBackbone(nn.Module):
    """Backbone whose features are the mean colour of each tubelet."""

    def forward(self, clips: Tensor) -> Tensor:
        return clips.unflatten(3, (-1, 2)).mean(dim=(4, 5, 6)).permute(0, 2, 1, 3).flatten(2)


class FakeHead(nn.Module):
    """Head that returns its inputs."""

    def forward(self, features: Tensor, mask: Tensor) -> Points:
        return Points(features.transpose(1, 2), mask[..., None])


def test_features_are_normalised_interpolated_and_masked() -> None:
    manifest = small_manifest("none")  # windows of 32 frames, clips of 8, mean 0.5 and std 0.2
    network = Network(manifest)
    network.backbone, network.detector = FakeBackbone(), FakeHead()  # type: ignore[assignment]
    levels = torch.arange(0, 160, 10, dtype=torch.uint8)  # a grey level for each frame of two clips
    clips = levels.reshape(1, 2, 8, 1, 1, 1).expand(1, 2, 8, 32, 48, 3)
    mask = torch.arange(32)[None] < 13
    features, _ = network(clips, mask)
    assert features.shape == (1, 32, 3)
    tubelets = (levels.float().reshape(-1, 2).mean(dim=1) / 255 - 0.5) / 0.2
    # A step is a quarter or three quarters of the way between the middles of two tubelets.
    torch.testing.assert_close(features[0, 3, 0], tubelets[1] * 0.75 + tubelets[2] * 0.25)
    torch.testing.assert_close(features[0, 4, 2], tubelets[1] * 0.25 + tubelets[2] * 0.75)
    torch.testing.assert_close(features[0, 0, 1], tubelets[0])
    assert (features[0, 13:] == 0).all()
    assert torch.equal(network.features(clips, mask), features.transpose(1, 2))
