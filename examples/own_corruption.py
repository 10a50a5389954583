"""
A corruption of your own
========================

Any object with the method ``__call__(x, *, generator)``, which returns ``Corrupted``, is a
corruption. With three more methods, ``apply``, ``adjoint`` and ``pinv``, it is a linear corruption,
and ``sfumato.consistent`` turns any denoiser into one whose estimates agree with the corrupted
picture. Every sampler can then undo the corruption.
"""

import matplotlib.pyplot as plt
import torch

import sfumato
from sfumato import image
from sfumato.sampler.ode import euler
from sfumato.sampler.schedule import karras
from sfumato.types import Corrupted


class LeftHalf:
    """Keep the left half, and set the right half to 0."""

    def __call__(self, x: torch.Tensor, *, generator: torch.Generator | None = None) -> Corrupted:
        """Corrupt a batch."""
        return Corrupted(self.apply(x), torch.zeros(len(x)))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the linear operator A to x."""
        keep = torch.arange(x.shape[-1]) < x.shape[-1] // 2
        return x * keep

    adjoint = pinv = apply  # an orthogonal projection is its own adjoint and pseudo-inverse


# %%
# Generate an apple and keep its left half. The model then draws right halves that fit.

model, prompt, half = sfumato.load("icons"), "a red apple", LeftHalf()
apple = sfumato.create(prompt, sfumato.CreateOptions(seed=7), model)[0].picture
with torch.inference_mode():
    known = half(model.space.encode(image.to_tensor(apple))).y
    condition, _ = model.text([prompt], apple.size)
    empty, _ = model.text([""], apple.size)
    denoise = sfumato.guided(model.denoiser, condition, empty, scale=3)
    denoise = sfumato.consistent(denoise, half, known)
    sigmas = karras(model.denoiser.times.sigmas, 20)
    drawn = []
    for seed in range(4):
        noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(seed))
        *_, last = euler(denoise, (1 + sigmas[0] ** 2) ** 0.5 * noise, sigmas)
        drawn.append(image.to_pictures(model.space.decode(last.denoised))[0])
print("keeps the left half:", bool(torch.allclose(half.apply(last.denoised), known, atol=1e-5)))

figure, axes = plt.subplots(1, 6, figsize=(9, 1.8))
pictures = [apple, image.to_pictures(model.space.decode(known))[0], *drawn]
for ax, picture in zip(axes, pictures, strict=True):
    ax.imshow(picture)
    ax.axis("off")
plt.show()
