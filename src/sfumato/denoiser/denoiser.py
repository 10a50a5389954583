"""The denoiser: a network with preconditioning."""

from __future__ import annotations

from torch import Tensor, nn

from sfumato.denoiser.precondition import PRECONDITIONS, Coefficients, Times
from sfumato.errors import unknown
from sfumato.types import Condition, Network


class Denoiser(nn.Module):
    """``D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)``, the estimate of the clean picture.

    Parameters
    ----------
    network : nn.Module with the call signature of :class:`sfumato.types.Network`
    kind : {"direct", "eps", "v", "x0", "edm", "flow"}
        What the network predicts: one of the functions in :mod:`sfumato.denoiser.precondition`.
    times : Times, optional
        Timesteps of the network and their noise levels; Stable Diffusion's by default.
    sigma_data : float
        Standard deviation of the clean data (for "edm").

    Examples
    --------
    >>> import torch
    >>> class Zero(nn.Module):
    ...     def forward(self, x, c_noise, condition):
    ...         return torch.zeros_like(x)
    >>> D = Denoiser(Zero(), "eps")
    >>> bool((D(torch.ones(1, 1, 2, 2), torch.ones(1), Condition()) == 1).all())
    True
    """

    def __init__(
        self,
        network: Network,
        kind: str = "eps",
        times: Times | None = None,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in PRECONDITIONS:
            raise unknown("prediction", kind, PRECONDITIONS)
        self.network = network
        self.kind, self.times, self.sigma_data = kind, times or Times.from_betas(), sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at noise levels (B,), in float64.

        For MPS, which lacks float64, the coefficients are computed on the CPU.
        """
        exact = (sigma.cpu() if sigma.device.type == "mps" else sigma).double()
        return PRECONDITIONS[self.kind](exact, self.times.to_time, self.sigma_data)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Estimate the clean picture (B, C, h, w) from `x` (B, C, h, w) and `sigma` (B,), in the
        dtype of `x`.
        """
        # a network without parameters works in the dtype of its input
        dtype = next(self.parameters(), x).dtype
        if self.kind == "direct":  # 0 x + 1 F(1 x): the network alone
            return self.network(
                x.to(dtype), sigma.float().to(x.device), condition.to(dtype=dtype)
            ).to(x.dtype)
        c = self.coefficients(sigma)
        skip, out, scale = (
            k.to(x.dtype).to(x.device)[:, None, None, None] for k in (c.c_skip, c.c_out, c.c_in)
        )
        raw = self.network(
            (scale * x).to(dtype), c.c_noise.float().to(x.device), condition.to(dtype=dtype)
        ).to(x.dtype)
        return skip * x + out * raw

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the loss weights ``1 / c_out^2`` (B,).

        With them, ``weight |D - x0|^2`` is the squared error of the network's own output.
        """
        return (
            (1 / self.coefficients(sigma).c_out.square().clamp_min(1e-12)).float().to(sigma.device)
        )


def prediction(kind: str) -> str:
    """Translate diffusers' ``prediction_type`` to our name.

    Examples
    --------
    >>> prediction("v_prediction")
    'v'
    """
    names = {
        "epsilon": "eps",
        "v_prediction": "v",
        "sample": "x0",
        "edm": "edm",
        "flow_prediction": "flow",
    }
    if kind not in names:
        raise unknown("prediction_type", kind, names)
    return names[kind]
