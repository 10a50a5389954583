"""A corruption of your own: anything with the right call joins in; with three more functions it is
linear.
"""

import torch

from sfumato import consistent, parse
from sfumato.types import Corrupted


class LeftHalf:
    """Hide the right half of a picture."""

    def __call__(self, x: torch.Tensor, *, generator: torch.Generator | None = None) -> Corrupted:
        """Corrupt a batch."""
        return Corrupted(self.apply(x), torch.zeros(len(x)))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """A x."""
        keep = torch.arange(x.shape[-1]) < x.shape[-1] // 2
        return x * keep

    adjoint = pinv = apply  # an orthogonal projection is its own adjoint and pseudo-inverse


x = torch.rand(1, 3, 8, 8)
y = LeftHalf()(x).y
denoise = consistent(lambda noisy, sigma: torch.zeros_like(noisy), LeftHalf(), y)
print(
    "agrees with what was measured:",
    bool(torch.equal(LeftHalf().apply(denoise(x, torch.ones(1))), y)),
)
print("of the registry:", parse("mask:0.5+noise:25"))
