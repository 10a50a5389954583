"""Training rate of our U-Net against diffusers' and lucidrains': same parameters, same FLOPs, bf16 autocast against bf16 autocast.

    pip install --no-deps denoising-diffusion-pytorch einops    # optional second peer
    python benchmarks/train.py

Forward, backward and AdamW on random latents, alternating between programs in one process; the median of several rounds.
"""

import statistics
import time

import diffusers
import torch

from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.types import Condition

CONFIG = {
    "sample_size": 16,
    "block_out_channels": (128, 256),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 256,
    "attention_head_dim": 4,
}
BATCH, ROUNDS = 32, 7


def contestants():
    """Name -> (module, call)."""
    theirs = diffusers.UNet2DConditionModel(**CONFIG)
    ours = UNet(UNetConfig(**CONFIG))
    ours.load_state_dict(theirs.state_dict())
    return {
        "sfumato": (ours, lambda x, t, tokens: ours(x, t, Condition(tokens))),
        "diffusers": (theirs, lambda x, t, tokens: theirs(x, t, tokens).sample),
    }


def step(call, optimizer, inputs):
    """One training step; returns seconds."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        out = call(*inputs)
    out.float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main():
    """Print samples per second and the ratio."""
    torch.manual_seed(0)
    inputs = torch.randn(BATCH, 4, 16, 16), torch.rand(BATCH) * 999, torch.randn(BATCH, 32, 256)
    found = contestants()
    optimizers = {name: torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True) for name, (module, _) in found.items()}
    seconds = {name: [] for name in found}
    for k in range(ROUNDS + 1):
        for name, (_, call) in found.items():
            spent = step(call, optimizers[name], inputs)
            if k:
                seconds[name].append(spent)
    rates = {name: BATCH / statistics.median(s) for name, s in seconds.items()}
    for name, rate in rates.items():
        millions = sum(p.numel() for p in found[name][0].parameters()) / 1e6
        print(f"{name:12s} {millions:6.1f} M parameters  {rate:7.1f} samples/s  {rates['sfumato'] / rate:5.2f}x")


if __name__ == "__main__":
    main()
