"""Compare the training rate of our U-Net with the U-Nets of diffusers and lucidrains.

    pip install --no-deps denoising-diffusion-pytorch einops    # the second peer
    python benchmarks/train.py [--same-memory]

A training step consists of the forward pass, the backward pass, gradient clipping and AdamW, on
random latents with batch size 64. There are two pairs of programs. The first compares the U-Net of
the bundled model with diffusers' U-Net of the same configuration. The second compares a U-Net of
residual blocks, with attention in the middle only, with lucidrains' U-Net, which has no
cross-attention. The second pair has equal FLOPs and nearly equal numbers of parameters; both
numbers are printed. All programs use the dtype that `auto` chooses for the CPU, or SFUMATO_DTYPE.

Each program runs in its own process, with the settings that it would normally have. Our programs
use the memory settings of our training loop (`runtime.keep_memory`); with --same-memory, the peers
use them, too. Every round runs one step of each program in turn. The rates are medians over the
rounds.

The GFLOP/s of each program are printed with their share of the roof: the best GFLOP/s that a single
large matrix product reaches on this machine. No step can be faster than the roof. A training step
counts as three forward passes, because it has three matrix products for each product of the forward
pass.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.runtime import autocast, choose_dtype

CPU = torch.device("cpu")
BATCH, ROUNDS, SIDE, CHANNELS, TEXT = 64, 15, 8, 16, 256
COMMON = {
    "sample_size": SIDE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "cross_attention_dim": TEXT,
    "attention_head_dim": 4,
}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
ICONS = {**COMMON, **CROSS, "block_out_channels": (192, 256), "layers_per_block": 1}
RESIDUAL = {**COMMON, **PLAIN, "block_out_channels": (160, 320), "layers_per_block": 1}
DIM = 156


def ours(config):
    """Return our U-Net and a function that calls it."""
    from sfumato.denoiser.unet import UNet, UNetConfig
    from sfumato.types import Condition

    module = UNet(UNetConfig(**config))
    return module, lambda x, t, tokens: module(x, t, Condition(tokens))


def diffusers():
    """Return diffusers' U-Net and a function that calls it."""
    from diffusers import UNet2DConditionModel

    module = UNet2DConditionModel(**ICONS)
    return module, lambda x, t, tokens: module(x, t, tokens).sample


def lucidrains():
    """Return lucidrains' U-Net and a function that calls it.

    The libraries that only its trainer needs are replaced by mocks.
    """
    unused = [
        "torchvision",
        "torchvision.transforms",
        "torchvision.utils",
        "ema_pytorch",
        "accelerate",
        "pytorch_fid",
        "pytorch_fid.inception",
    ]
    with mock.patch.dict(
        sys.modules, {name: mock.MagicMock() for name in [*unused, "pytorch_fid.fid_score"]}
    ):
        from denoising_diffusion_pytorch import Unet
    module = Unet(DIM, dim_mults=(1, 2), channels=CHANNELS, full_attn=(False, True))
    return module, lambda x, t, tokens: module(x, t)


PAIRS = {
    "the bundled model's U-Net": ("sfumato", "diffusers"),
    "residual blocks": ("sfumato, residual", "lucidrains"),
}
PROGRAMS = {
    "sfumato": lambda: ours(ICONS),
    "sfumato, residual": lambda: ours(RESIDUAL),
    "diffusers": diffusers,
    "lucidrains": lucidrains,
}


def work(name, same_memory, pipe):
    """Run a program in its process: send its size, then the seconds of a step per request."""
    if same_memory or name.startswith("sfumato"):
        from sfumato.runtime import keep_memory

        keep_memory()
    torch.manual_seed(0)
    inputs = (
        torch.randn(BATCH, CHANNELS, SIDE, SIDE),
        torch.rand(BATCH) * 999,
        torch.randn(BATCH, 32, TEXT),
    )
    module, call = PROGRAMS[name]()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    pipe.send((sum(p.numel() for p in module.parameters()) / 1e6, gflops(call, inputs)))
    while pipe.recv():
        pipe.send(step(module, call, optimizer, inputs))


def step(module, call, optimizer, inputs):
    """One training step; returns seconds."""
    start = time.perf_counter()
    with autocast(CPU, choose_dtype("auto", CPU)):
        out = call(*inputs)
    out.float().square().mean().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def gflops(call, inputs):
    """Return the GFLOP of a forward pass per sample, with attention as plain matrix products."""
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops() / len(inputs[0]) / 1e9


def roof():
    """The best GFLOP/s of a large matrix product."""
    best = 0.0
    for side in (1024, 2048, 3072):
        a, b = (torch.randn(side, side, dtype=choose_dtype("auto", CPU)) for _ in range(2))
        for _ in range(6):
            start = time.perf_counter()
            a @ b
            best = max(best, 2 * side**3 / (time.perf_counter() - start) / 1e9)
    return best


def compare(title, names, same_memory, best):
    """Start both programs of a pair, run them in turns, and print their rates."""
    context, pipes, sizes, seconds = (
        multiprocessing.get_context("spawn"),
        {},
        {},
        {name: [] for name in names},
    )
    for name in names:
        pipes[name], far = context.Pipe()
        context.Process(target=work, args=(name, same_memory, far), daemon=True).start()
        far.close()
    try:
        sizes = {name: pipe.recv() for name, pipe in pipes.items()}
    except EOFError:
        print(f"{title}: skipped, because {names[1]} is not installed")
        return
    for k in range(ROUNDS + 2):
        for name, pipe in pipes.items():
            pipe.send(True)
            spent = pipe.recv()
            if k > 1:
                seconds[name].append(spent)
    rates = {name: BATCH / statistics.median(s) for name, s in seconds.items()}
    print(f"{title}: sfumato is {rates[names[0]] / rates[names[1]]:.2f}x as fast as {names[1]}")
    for name in names:
        millions, work_each = sizes[name]
        spent = 3 * work_each * rates[name]
        print(
            f"  {name:18s} {millions:5.1f} M parameters, {work_each:.2f} GFLOP per sample, "
            f"{rates[name]:6.1f} samples/s, {spent:4.0f} GFLOP/s, {spent / best:.0%} of the roof"
        )
    for pipe in pipes.values():
        pipe.send(False)


def main():
    """Print samples per second and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--same-memory", action="store_true", help="use our memory settings for the peers, too"
    )
    arguments = parser.parse_args()
    best = roof()
    print(
        f"{torch.get_num_threads()} threads, batch {BATCH}, medians of {ROUNDS}; roof of "
        f"{choose_dtype('auto', CPU)} products: {best:.0f} GFLOP/s"
    )
    for title, names in PAIRS.items():
        compare(title, names, arguments.same_memory, best)


if __name__ == "__main__":
    main()
