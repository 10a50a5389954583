"""Muon: steps of equal length in all directions of a weight matrix.

The gradient of a layer has a few strong directions and many weak ones. AdamW scales each weight
separately, which keeps this imbalance. Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon) replaces the momentum by the nearest matrix with equal
singular values. torch.optim.Muon accepts matrices only, but nearly all weights in this package are
convolution kernels. This module treats a kernel as a matrix (C_out, C_in k k).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS, CURVE = 5, (3.4445, -4.7750, 2.0315)  # Newton-Schulz; the post's quintic
# minimum of rows and of columns: smaller matrices, as in the first and the last layer of a network,
# have few directions
LEAST = 32


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate U V' for each matrix U S V': the nearest matrix whose singular values are all 1.

    Parameters
    ----------
    matrices : Tensor, (N, m, n), of any scale

    Returns
    -------
    Tensor, (N, m, n)
        The singular values lie between 0.5 and 1.3. The only exceptions are values that were below
        about 1e-3 of the matrix's Frobenius norm.

    Examples
    --------
    >>> x = orthogonal(torch.diag(torch.tensor([3.0, 0.5, 0.2]))[None])
    >>> bool(((x[0].diagonal() > 0.5) & (x[0].diagonal() < 1.3)).all())
    True
    """
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x: Tensor = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = CURVE
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        # a x + (b g + c g g) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


def matrix_weights(module: nn.Module) -> list[Tensor]:
    """The weights to optimize by Muon: matrices with at least 32 rows and 32 columns.

    Convolution kernels are taken as matrices, as in :class:`Muon`. Embeddings, layers of a few
    channels, norms and biases are left out.
    """
    layers = (
        m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    )
    return [
        m.weight
        for m in layers
        if m.weight.requires_grad and min(len(m.weight), m.weight[0].numel()) >= LEAST
    ]


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalized momentum, scaled so that AdamW's learning rates apply.

    Parameters
    ----------
    parameters : iterable of Parameter
        Matrices (m, n), or kernels (m, ...), which are taken as matrices.
    weight_decay : float
    momentum : float
    dtype : torch.dtype
        Dtype of the Newton-Schulz iterations.

    References
    ----------
    Liu et al. 2025, arXiv:2502.16982, section 2.2: with a factor 0.2 sqrt(max(m, n)), steps have
    the same root mean square as AdamW's steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            parameters, {"lr": 1e-3, "weight_decay": weight_decay, "momentum": momentum}
        )
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; matrices of equal shape are orthogonalized together."""
        for group in self.param_groups:
            shaped: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shaped.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in shaped.items():
                updates = orthogonal(
                    torch.stack(
                        [
                            self._ahead(p, group["momentum"]).flatten(1).to(self.dtype)
                            for p in parameters
                        ]
                    )
                )
                scale = 0.2 * math.sqrt(max(updates.shape[-2:])) * group["lr"]
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(shape).to(parameter.dtype), alpha=-scale)

    def _ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov momentum."""
        assert parameter.grad is not None
        state = self.state[parameter]
        mean: Tensor = state.setdefault("momentum", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)
