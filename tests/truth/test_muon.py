"""Muon against the singular value decomposition, and the parameters it takes."""

import pytest
import torch
from torch import nn

from sfumato.denoiser.restorer import Restorer, RestorerConfig
from sfumato.train.muon import Muon, matrix_weights, orthogonal


@pytest.mark.parametrize("shape", [(3, 40, 90), (2, 90, 40), (1, 64, 64)])
def test_singular_values_become_one(shape):
    random = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=random), full_matrices=False)
    values = torch.logspace(0, -2, min(shape[1:]))  # a hundredfold range
    matrices = 7.0 * (u * values) @ v
    made = orthogonal(matrices)
    found = u.mT @ made @ v.mT  # diagonal, if the directions are kept
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert 0.5 < float(diagonal.min()) <= float(diagonal.max()) < 1.3
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-3
    assert float((u.mT @ matrices @ v.mT).diagonal(dim1=-2, dim2=-1).min()) < 0.1, (
        "before, they were far from one"
    )


def test_a_step_is_as_long_as_one_of_adamw():
    layer = nn.Conv2d(32, 48, 3, bias=False)
    before, random = layer.weight.detach().clone(), torch.Generator().manual_seed(0)
    optimizer = Muon([layer.weight])
    layer.weight.grad = 1e-5 * torch.randn(layer.weight.shape, generator=random)
    optimizer.step()
    step = float((layer.weight.detach() - before).square().mean().sqrt())
    assert step == pytest.approx(0.2e-3, rel=0.2), (
        "0.2 of the rate, which is what AdamW's steps have in the middle of a run"
    )


def test_the_same_layers_whatever_the_memory_layout():
    steps = []
    for module in (
        Restorer(RestorerConfig(widths=(32, 40), blocks=1)),
        Restorer(RestorerConfig(widths=(32, 40), blocks=1)).channels_last(),
    ):
        module.load_state_dict({k: torch.ones_like(v) for k, v in module.state_dict().items()})
        optimizer, random = (
            Muon(matrix_weights(module), dtype=torch.float32),
            torch.Generator().manual_seed(0),
        )
        for p in matrix_weights(module):
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
        steps.append([p.detach().clone() for p in matrix_weights(module)])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*steps, strict=True))


def test_only_matrices_between_features():
    module = nn.Sequential(
        nn.Embedding(100, 64),
        nn.Linear(64, 128),
        nn.LayerNorm(128),
        nn.Linear(128, 3),
        nn.Conv2d(3, 64, 3),
    )
    assert [p.shape for p in matrix_weights(module)] == [(128, 64)]
    module[1].requires_grad_(False)
    assert matrix_weights(module) == []
