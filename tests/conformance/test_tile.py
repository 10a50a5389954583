"""Windows: the result of the whole, whatever the network's layers see of it."""

import pytest
import torch

from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.tile import layer, windows


@pytest.mark.parametrize("size", [(40, 40), (34, 70), (16, 90)])
@pytest.mark.parametrize("ratio", [1, 2, 0.5])
def test_a_layer_in_windows(size, ratio):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 3, 3, padding=1, stride=2 if ratio == 0.5 else 1).requires_grad_(
        False
    )
    x = torch.randn(1, 2, *size)
    f = {
        1: conv,
        0.5: conv,
        2: lambda t: conv(torch.nn.functional.interpolate(t, scale_factor=2.0)),
    }[ratio]
    torch.testing.assert_close(layer(f, x, 16, ratio), f(x), atol=1e-6, rtol=0)


def test_a_network_that_sees_beyond_the_margin_is_caught():
    wide = torch.nn.Conv2d(1, 1, 9, padding=4).requires_grad_(False)
    x = torch.randn(1, 1, 40, 40)
    out = torch.empty_like(x)
    for window in windows((40, 40), tile=16, margin=2):
        out[..., window.rows, window.columns] = window.cut(wide(x[..., *window.around]))
    assert (out - wide(x)).abs().max() > 0.05


def autoencoder():
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    torch.manual_seed(0)
    return (
        AutoencoderKL(
            AutoencoderConfig(block_out_channels=(32, 64, 64), layers_per_block=1, **kinds)
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.mark.parametrize("size", [(96, 96), (72, 120)])
def test_an_autoencoder_in_windows(size):
    """Within 1/255 everywhere, seams included, though its norms look at the whole picture; each
    part by itself differs.
    """
    space = autoencoder()
    # what the parts look like differs from left to right
    x = torch.rand(1, 3, *size) * torch.linspace(-1, 1, size[1])
    space.tile = None
    z = space.encode(x)
    y = space.decode(z)
    space.tile = 16
    assert (space.encode(x) - z).abs().max() < 1e-4
    assert (space.decode(z) - y).abs().max() < 1e-4 < 1 / 255
    alone = torch.cat([space.decode(part) for part in z.chunk(2, -1)], -1)
    assert (alone - y).abs().max() > 2 / 255


def test_gradients_in_windows_are_those_of_the_whole():
    """A window's result takes the place of features that are not needed again; a gradient needs
    them.
    """
    space, z, found = autoencoder(), torch.randn(1, 4, 12, 18), []
    for tile in (16, None):
        space.tile = tile
        leaf = z.clone().requires_grad_()
        space.decode(leaf).square().mean().backward()
        found.append(leaf.grad)
    assert found[1].abs().max() > 1e-5
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-3)
