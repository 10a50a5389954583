"""The vocabulary: the five axes as protocols, and the small records that travel between them.

B batch, C channels, H W pixels, h w latent size, T tokens, D width. Pixels are in [-1, 1].
``sigma`` is the noise's standard deviation in the frame ``x = x0 + sigma n``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Corrupted:
    """What a corruption gives back.

    Attributes
    ----------
    y : Tensor, (B, C', H', W')
        The measurement.
    sigma : Tensor, (B,)
        Standard deviation of the Gaussian noise that was added, drawn per picture; 0 where there
        was none. What comes after it in a composition (less size, blur) may weaken it.
    """

    y: Tensor
    sigma: Tensor


@runtime_checkable
class Corruption(Protocol):
    """A corruption: maps ``x`` to a corrupted ``y``, and tells the noise level that it drew."""

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Corrupt a batch of pictures (B, C, H, W)."""
        ...


@runtime_checkable
class Linear(Corruption, Protocol):
    """A corruption ``y = A x + noise`` whose ``A`` is linear."""

    def apply(self, x: Tensor) -> Tensor:
        """Return ``A x``."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``A' y``, with ``<A x, y> = <x, A' y>``."""
        ...

    def pinv(self, y: Tensor) -> Tensor:
        """Return ``A+ y``, with ``A A+ A = A``."""
        ...


class Space(Protocol):
    """Where we work: pixels, PCA codes, autoencoder codes, the VAE's latents."""

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to codes (B, *code)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, *code) to pictures (B, C, H, W); of a space of tables, to rows (B, d)."""
        ...


Watch = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Condition:
    """All that may steer a network; each part may be absent.

    Attributes
    ----------
    tokens : Tensor, (B, T, D), optional
        Text states that the network attends to.
    vector : Tensor, (B, V), optional
        A vector that joins the time embedding: pooled text, sizes, a label, a noise level.
    planes : Tensor, (B, K, h, w), optional
        Pictures concatenated to the input: masks, known pixels, a small picture.
    watch : callable, optional
        Told the queries (B, N, D) and keys (B, T, D) of each layer that attends to the tokens, in
        the order of the network. It steers nothing.
    """

    tokens: Tensor | None = None
    vector: Tensor | None = None
    planes: Tensor | None = None
    watch: Watch | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """Apply `f` to every part that is there."""
        tokens, vector, planes = (
            None if p is None else f(p) for p in (self.tokens, self.vector, self.planes)
        )
        return Condition(tokens, vector, planes, self.watch)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Condition:
        """Move every part to a device and dtype."""
        return self.map(lambda p: p.to(device=device, dtype=dtype))


class Network(Protocol):
    """Any ``nn.Module`` with this call, ours or wrapped."""

    def __call__(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """Predict from noisy input (B, C, h, w) and noise level code (B,)."""
        ...


Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(x, sigma) -> x0``: noisy (B, C, h, w) and sigma (B,) to the clean estimate. All that a sampler
ever sees.
"""


@dataclass(frozen=True)
class Step:
    """One step of a sampler.

    Attributes
    ----------
    index : int
        0 for the first step.
    sigma : float
        Noise level that the step started from.
    x : Tensor, (B, C, h, w)
        State after the step.
    denoised : Tensor, (B, C, h, w)
        The denoiser's estimate of the clean picture at the start of the step.
    """

    index: int
    sigma: float
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class Progress:
    """How far a task is.

    Attributes
    ----------
    what : str
        What is worked on.
    done, total : float
        Parts done, of how many.
    """

    what: str
    done: float
    total: float


Sampler = Callable[[Denoise, Tensor, Tensor], Iterator[Step]]
"""``(denoise, x, sigmas) -> steps``; sigmas is (N + 1,), falling, and its last entry is where to
stop.
"""
