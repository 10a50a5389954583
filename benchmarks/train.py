"""Training rate of our U-Net against diffusers' and lucidrains': same parameters, same FLOPs, bf16 autocast against bf16 autocast.

    pip install --no-deps denoising-diffusion-pytorch einops    # the second peer
    python benchmarks/train.py

Forward, backward, clipping and AdamW on random latents, batch 64: the U-Net of the bundled model. Diffusers' has the
same weights; lucidrains' has no cross-attention, so its width is set for the same FLOPs at nearly the same parameters
(both are printed). Every round runs one step of each program in turn, in one process; medians. Memory settings of our
training loop (`runtime.keep_memory`) hold for the whole process, so the peers have them, too.
"""

import statistics
import sys
import time
from unittest import mock

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.runtime import keep_memory
from sfumato.types import Condition

CONFIG = {
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "block_out_channels": (128, 256),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 256,
    "attention_head_dim": 4,
}
BATCH, ROUNDS = 64, 11
DIM = 152


def lucidrains():
    """The peer's U-Net, without the libraries that only its trainer needs."""
    unused = ["torchvision", "torchvision.transforms", "torchvision.utils", "ema_pytorch", "accelerate", "pytorch_fid", "pytorch_fid.inception"]
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in [*unused, "pytorch_fid.fid_score"]}):
        from denoising_diffusion_pytorch import Unet
    return Unet(DIM, dim_mults=(1, 2), channels=CONFIG["in_channels"], full_attn=(True, True))


def contestants():
    """Name -> (module, call)."""
    theirs = diffusers.UNet2DConditionModel(**CONFIG)
    ours = UNet(UNetConfig(**CONFIG))
    ours.load_state_dict(theirs.state_dict())
    found = {
        "sfumato": (ours, lambda x, t, tokens: ours(x, t, Condition(tokens))),
        "diffusers": (theirs, lambda x, t, tokens: theirs(x, t, tokens).sample),
    }
    try:
        other = lucidrains()
    except ImportError as error:
        print(f"lucidrains left out: {error}")
    else:
        found["lucidrains"] = other, lambda x, t, tokens: other(x, t)
    return found


def step(module, call, optimizer, inputs):
    """One training step; returns seconds."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        out = call(*inputs)
    out.float().square().mean().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def gflops(call, inputs):
    """Forward pass, per sample; attention is counted by its plain products."""
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops() / len(inputs[0]) / 1e9


def main():
    """Print samples per second and the ratio."""
    keep_memory()
    torch.manual_seed(0)
    side, channels = CONFIG["sample_size"], CONFIG["in_channels"]
    inputs = torch.randn(BATCH, channels, side, side), torch.rand(BATCH) * 999, torch.randn(BATCH, 32, CONFIG["cross_attention_dim"])
    found = contestants()
    optimizers = {name: torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True) for name, (module, _) in found.items()}
    seconds = {name: [] for name in found}
    for k in range(ROUNDS + 1):
        for name, (module, call) in found.items():
            spent = step(module, call, optimizers[name], inputs)
            if k:
                seconds[name].append(spent)
    rates = {name: BATCH / statistics.median(s) for name, s in seconds.items()}
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, medians of {ROUNDS}")
    for name, rate in rates.items():
        module, call = found[name]
        millions = sum(p.numel() for p in module.parameters()) / 1e6
        size = f"{millions:5.1f} M parameters, {gflops(call, inputs):.2f} GFLOP"
        print(f"{name:12s} {size}  {rate:6.1f} samples/s  sfumato is {rates['sfumato'] / rate:.2f}x")


if __name__ == "__main__":
    main()
