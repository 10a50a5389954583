"""Define your own corruption: any object with this call signature works.

With three more methods (apply, adjoint and pinv), the corruption is linear.
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
        """Apply the linear operator A to x."""
        keep = torch.arange(x.shape[-1]) < x.shape[-1] // 2
        return x * keep

    adjoint = pinv = apply  # an orthogonal projection is its own adjoint and pseudo-inverse


x = torch.rand(1, 3, 8, 8)
y = LeftHalf()(x).y
denoise = consistent(lambda noisy, sigma: torch.zeros_like(noisy), LeftHalf(), y)
print(
    "agrees with the known pixels:",
    bool(torch.equal(LeftHalf().apply(denoise(x, torch.ones(1))), y)),
)
print("a corruption from the registry:", parse("mask:0.5+noise:25"))
