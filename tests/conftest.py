"""Shared fixtures: a tiny random model stands in for a checkpoint."""

import sys

import pytest
import torch

from sfumato import cli
from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.save import save_index, save_network, save_scheduler, save_text
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL

TINY = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
UNET = {**TINY, "layers_per_block": 1, "sample_size": 8}
VAE = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "sample_size": 16,
}
TEXTS = ["a red apple", "a blue house", "puppy, Fluent 3D emoji", "the quick brown fox"] * 10


def make_tiny(folder, defaults=None, *, pixels=False, **unet):
    """Write a whole model folder of random weights, in latents or in pixels."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.train(TEXTS, 600, 16)
    text = CLIPTextConfig(
        vocab_size=tokenizer.end + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        hidden_act="gelu",
        bos_token_id=tokenizer.begin,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )
    save_network(UNet(UNetConfig(**{**UNET, **unet})), folder / "unet", torch.float32)
    if not pixels:
        save_network(AutoencoderKL(AutoencoderConfig(**VAE)), folder / "vae", torch.float32)
    save_text(CLIPText(text), tokenizer, folder, torch.float32)
    schedule = SchedulerConfig(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
    save_scheduler(schedule, folder / "scheduler")
    save_network(
        Matcher(MatcherConfig(size=16, widths=(16,), blocks=(1,), text_width=32, width=8)),
        folder / "matcher",
        torch.float32,
    )
    own = defaults or Defaults(steps=4, guidance_scale=3.0)
    save_index(folder, own, schedule, pixels=pixels)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a tiny random text-to-image model of 16x16 pictures."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command line; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sfumato", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
