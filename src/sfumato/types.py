"""Shared types.

This module has the interfaces of the five parts of the package (corruption, space, denoiser,
condition, sampler), and the records passed between them.

In shapes, B is the batch size, C the number of channels, T the number of tokens (or of timesteps,
in a table of noise levels) and D the hidden size. H and W are the height and width in pixels, h and
w the height and width of latents. Pixels are in [-1, 1]. ``sigma`` is the standard deviation of the
noise in ``x = x0 + sigma n``.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Corrupted:
    """The result of a corruption.

    Attributes
    ----------
    y : Tensor, (B, C', H', W')
        The corrupted pictures, also called the measurement.
    sigma : Tensor, (B,)
        Standard deviation of the Gaussian noise that was added, sampled per picture; 0 without
        noise. If downsampling or blur follows, the noise in `y` may be weaker.
    """

    y: Tensor
    sigma: Tensor


@runtime_checkable
class Corruption(Protocol):
    """A corruption: maps ``x`` to a corrupted ``y``, and returns the sampled noise level."""

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
    """A space in which models work: pixels, PCA codes, autoencoder codes or VAE latents."""

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures (B, C, H, W) as codes (B, *code)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Decode codes (B, *code) to pictures (B, C, H, W), or for tables to rows (B, d)."""
        ...


Watch = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, eq=False)
class Condition:
    """Everything that a network can be conditioned on; each part may be absent.

    Attributes
    ----------
    tokens : Tensor, (B, T, D), optional
        Hidden states of the text, for cross-attention.
    vector : Tensor, (B, V), optional
        A vector whose embedding is added to the time embedding: pooled text state, sizes, a label
        or a noise level.
    planes : Tensor, (B, K, h, w), optional
        Pictures that are concatenated to the input as channels: masks, known pixels or a small
        picture.
    watch : callable, optional
        Called with the queries (B, N, D) and keys (B, T, D) of each cross-attention layer, in the
        order of the layers. It does not change the result.
    """

    tokens: Tensor | None = None
    vector: Tensor | None = None
    planes: Tensor | None = None
    watch: Watch | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """Apply `f` to every part that is present."""
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
    """Any ``nn.Module`` with this call signature, from this package or a wrapper of another
    network.
    """

    def __call__(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """Predict from a noisy input (B, C, h, w) and its scaled noise level ``c_noise`` (B,)."""
        ...


Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(x, sigma) -> x0``: maps noisy pictures (B, C, h, w) and sigma (B,) to the denoised estimate. A
sampler uses a model only through this function.
"""


@dataclass(frozen=True, eq=False)
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
    """Progress of a task.

    Attributes
    ----------
    what : str
        Name of the work, such as "steps" or "decoding".
    done, total : float
        Number of finished parts, and number of all parts.
    """

    what: str
    done: float
    total: float


Reporting = abc.Generator[Progress, None, T]
"""A generator that yields its progress and returns its result."""

Sampler = Callable[[Denoise, Tensor, Tensor], Iterator[Step]]
"""``(denoise, x, sigmas) -> steps``; ``sigmas`` (N + 1,) decreases, and its last entry is the level
to stop at.
"""
