"""Networks and prints for the tests of `restore`."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.restore.common import PHOTO

from sfumato.denoiser.restorer import Restorer, RestorerConfig
from sfumato.hub.save import save_network
from sfumato.tasks.restore.networks import RestorationNetworks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A restorer of random weights, which changes everything that it may."""
    torch.manual_seed(0)
    network = Restorer(RestorerConfig(widths=(8, 12), blocks=1))
    with torch.no_grad():
        network.tail.weight.mul_(100)
    out = tmp_path_factory.mktemp("restorer")
    save_network(network, out)
    return out


@pytest.fixture(scope="module")
def repairer(folder):
    return RestorationNetworks(folder)


@pytest.fixture
def sepia():
    gray = np.asarray(Image.fromarray(PHOTO).convert("L"), np.float32)[..., None]
    values = gray + np.array([12.0, -2.0, -21.0], np.float32) * (gray / 255) * (1 - gray / 255) * 4
    return (
        (values + np.random.default_rng(0).normal(0, 1, values.shape))
        .clip(0, 255)
        .round()
        .astype(np.uint8)
    )
