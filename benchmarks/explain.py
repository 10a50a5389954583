"""Measure the cost of recording a run: the time, and the size of the page.

    python benchmarks/explain.py [--rounds 15]

The time of a run with recording is compared with the time of the same run without recording; the
two alternate. The runs use the bundled model with its default number of steps and one candidate.
The page shows 30 steps at 512x512 with 77 tokens, from a small network with random weights. This
network generates noise, which takes more bytes than photographs would.
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
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def overhead(rounds):
    """Return the median seconds without and with recording, and the median of their ratio."""
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
    """Return a model with random weights and Stable Diffusion 1's input shapes.

    The latents are 4 x 64 x 64, and the text has 77 tokens.
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
    network = UNet(unet).eval()
    text = TextEncoder(CLIPText(clip).eval(), tokenizer)
    return Model(
        "random",
        "0" * 64,
        {},
        Denoiser(network, "eps"),
        AutoencoderKL(vae).eval(),
        text,
        SchedulerConfig(),
        Defaults(),
        Path(),
    )


def main():
    """Print the times and the sizes of the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    alone, seen, ratio = overhead(parser.parse_args().rounds)
    print(
        f"icons: {alone * 1000:.0f} ms without recording, {seen * 1000:.0f} ms with recording; "
        f"median ratio {ratio:.3f}"
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
