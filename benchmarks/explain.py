"""The cost of recording: the time of a recorded run against the same run alone, and the size of a
page.

    python benchmarks/explain.py [--rounds 15]

The runs use the bundled model, its default steps and one try, and alternate. The page is that of
30 steps at 512x512 with 77 tokens: of a small network with random weights, whose pictures of noise
take more room than those of photographs would.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.load import Model, load
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.tasks.explain.experiments import explain
from sfumato.tasks.explain.trace import trace


def seconds(work):
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def overhead(rounds):
    """Medians of a run alone and recorded, and of their ratio."""
    model, options = load("icons"), CreateOptions(seed=7, best_of=1)
    pairs = []
    for _ in range(rounds + 1):
        pairs.append(
            (
                seconds(lambda: create("a red apple", options, model)),
                seconds(lambda: trace("a red apple", options, model)),
            )
        )
    alone, seen = zip(*pairs[1:], strict=True)
    return (
        statistics.median(alone),
        statistics.median(seen),
        statistics.median(b / a for a, b in pairs[1:]),
    )


def large():
    """A random model with Stable Diffusion 1's shapes at the ends: latents of 4 x 64 x 64, 77
    tokens.
    """
    torch.manual_seed(0)
    unet = UNetConfig(
        sample_size=64,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=32,
        attention_head_dim=4,
        layers_per_block=1,
    )
    vae = AutoencoderConfig(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    )
    tokenizer = CLIPTokenizer.original()
    clip = CLIPTextConfig(
        vocab_size=tokenizer.end + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=tokenizer.begin,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )
    # any file: the page prints its digest
    network, weights = UNet(unet).eval(), Path(torch.__file__)
    text = TextEncoder(CLIPText(clip).eval(), tokenizer)
    return Model(
        "random",
        weights,
        Denoiser(network, "eps"),
        AutoencoderKL(vae).eval(),
        text,
        SchedulerConfig(),
        Defaults(),
        weights,
    )


def main():
    """Print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    alone, seen, ratio = overhead(parser.parse_args().rounds)
    print(
        f"icons: {alone * 1000:.0f} ms alone, {seen * 1000:.0f} ms recorded; median ratio "
        f"{ratio:.3f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for light in (True, False):
            page = Path(folder) / f"{light}.html"
            explain(
                "a photograph of an astronaut riding a horse",
                CreateOptions(seed=1, steps=30),
                large(),
                light=light,
            ).write(page)
            print(
                f"page of 30 steps at 512x512, {'light' if light else 'full'}: "
                f"{page.stat().st_size / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main()
