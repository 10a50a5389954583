"""Record the inputs, outputs and attention of a model's network while it samples.

A second denoiser around the model's network records. Other runs use the model's own denoiser, so
they are not recorded.
Attention weights, which fused kernels do not return, are computed again from the layers' queries
and keys.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.denoiser.denoiser import Denoiser
from sfumato.hub.load import Model
from sfumato.layers import TransformerBlock
from sfumato.types import Condition

FINEST = 16  # largest side of attention maps
APART = 28 * 28  # largest number of latent positions for which each head has its own map


@dataclass(frozen=True)
class Pass:
    """One evaluation of the denoiser for a batch. With guidance, the rows of prompts come first,
    and the rows of negative prompts follow.
    """

    x: Tensor
    out: Tensor
    # of the prompts, per layer: (B, H, T, a, b) for H heads (1 if they are averaged), T tokens and
    # maps of a x b positions
    maps: list[Tensor]


class Recorder(Denoiser):
    """A denoiser that shares a model's network, and records its inputs and outputs."""

    def __init__(self, model: Model) -> None:
        wrapped = model.denoiser
        super().__init__(wrapped.network, wrapped.kind, wrapped.times, wrapped.sigma_data)
        self.heads = [block.attn2.heads for block in attending(model.network).values()]
        # first evaluation since the last step: input, output, queries and keys
        self.first: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]] | None = None
        self.started: float | None = None

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Evaluate the denoiser; the first evaluation of a step is recorded."""
        self.started = self.started or time.perf_counter()
        asked: list[tuple[Tensor, Tensor]] = []
        out = super().forward(x, sigma, replace(condition, watch=lambda q, k: asked.append((q, k))))
        self.first = self.first or (x, out, asked)
        return out

    def taken(self, batch: int) -> tuple[Pass, float]:
        """Return what was recorded at the first network evaluation of the last step, and the
        seconds since this evaluation began.

        Also reset the record. `batch` is the number of pictures.
        """
        assert self.first is not None and self.started is not None
        seconds, (x, out, asked) = time.perf_counter() - self.started, self.first
        maps, apart = [], len(set(self.heads)) == 1 and x[0, 0].numel() <= APART
        for heads, pair in zip(self.heads, asked, strict=True):
            q, k = (t[:batch].unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in pair)
            weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
            weights = weights if apart else weights.mean(dim=1, keepdim=True)
            maps.append(_small(weights.flatten(0, 1), x).unflatten(0, weights.shape[:2]))
        self.first = self.started = None
        return Pass(x.float().cpu(), out.float().cpu(), maps), seconds


def attending(network: nn.Module) -> dict[str, TransformerBlock]:
    """The blocks of a U-Net that attend to the text, in the order of execution."""
    found = {name: m for name, m in network.named_modules() if isinstance(m, TransformerBlock)}
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return dict(sorted(found.items(), key=lambda item: order[item[0].split(".")[0]]))


def _halved(count: int, x: Tensor) -> tuple[int, int]:
    """Height and width of the U-Net's level that has `count` positions for latents `x`."""
    tall, wide = int(x.shape[-2]), int(x.shape[-1])
    while tall * wide > count:
        tall, wide = -(-tall // 2), -(-wide // 2)
    return tall, wide


def _small(weights: Tensor, x: Tensor) -> Tensor:
    """Convert attention (rows, positions, T) to maps (rows, T, a, b).

    The maps have the same size for all layers, and their sums over T stay unchanged.
    """
    tall, wide = _halved(weights.shape[1], x)
    size = x.shape[-2:]
    while max(size) > FINEST:
        size = torch.Size(-(-n // 2) for n in size)
    maps = weights.transpose(1, 2).unflatten(2, (tall, wide))
    return F.interpolate(maps, size=size, mode="area" if tall > size[0] else "nearest").cpu()


def layer_label(name: str, model: Model, tall: int, wide: int) -> str:
    """Readable name of a layer, such as "down 2.1.1, 16x8".

    The numbers, from 1, are those of the down or up block, the attention module in it, and its
    transformer block (left out if there is only one). The width and height of the features follow.
    """
    way = name.split("_")[0]
    levels = len(model.network.config.block_out_channels) - 1
    numbers = [int(n) for n in name.split(".") if n.isdigit()]
    level = levels if way == "mid" else numbers[0] if way == "down" else levels - numbers[0]
    for _ in range(level):
        tall, wide = -(-tall // 2), -(-wide // 2)
    shown = numbers if model.network.config.depth(level) > 1 else numbers[:-1]
    return f"{' '.join([way, '.'.join(str(n + 1) for n in shown)])}, {wide}x{tall}"
