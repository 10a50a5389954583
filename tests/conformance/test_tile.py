"""Tiles: no seams, and no difference where the network's view does not reach a false border."""

import pytest
import torch

from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.tile import tiled


@pytest.mark.parametrize("size", [(40, 40), (33, 71), (16, 90)])
@pytest.mark.parametrize("ratio", [1, 2, 0.5])
def test_pointwise_functions_are_unchanged(size, ratio):
    tall, wide = (n // 2 * 2 for n in size)
    x = torch.randn(1, 2, tall, wide)
    f = {1: lambda t: t * 2, 2: lambda t: t.repeat_interleave(2, -1).repeat_interleave(2, -2), 0.5: lambda t: t[..., ::2, ::2]}[ratio]
    torch.testing.assert_close(tiled(f, x, tile=16, ratio=ratio), f(x), atol=1e-5, rtol=1e-5)


def test_local_network_has_no_seams():
    """A network that sees two pixels around: the same everywhere, as the outer eighth of a tile (4 pixels) has no weight."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 3, 3, padding=1)).requires_grad_(False)
    x = torch.rand(1, 3, 96, 130)
    assert (tiled(net, x, tile=32, ratio=1) - net(x)).abs().max() <= 1 / 255
    shifted = tiled(lambda t: net(t) + t.mean(), x, tile=32, ratio=1)  # a network that does look far: blended, not cut
    assert (shifted[..., 1:] - shifted[..., :-1]).abs().max() < (net(x)[..., 1:] - net(x)[..., :-1]).abs().max() + 0.05


@torch.no_grad()
def test_autoencoder_has_no_seams():
    """A tile's norm statistics are its own, so a tiled decoding differs a little; but it never jumps by more than 1 of 255."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    torch.manual_seed(0)
    space = AutoencoderKL(AutoencoderConfig(block_out_channels=(32, 32), layers_per_block=1, **kinds), tile=64).eval()
    z = torch.randn(1, 4, 1, 1).expand(1, 4, 128, 128).contiguous()
    with_tiles = space.decode(z)
    space.tile = None
    naive = torch.cat([torch.cat([space.decode(part) for part in row.chunk(2, -1)], -1) for row in z.chunk(2, -2)], -2)
    seams = [(made - space.decode(z))[..., 64:-64, 64:-64].diff(dim=-1).abs().max() for made in (with_tiles, naive)]
    assert seams[0] <= 1 / 255
    assert seams[0] < seams[1] / 10, "tiles put side by side jump: the check can see a seam"
