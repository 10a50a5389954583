"""Data, config files and small jobs for the tests of training."""

import io
import json

import numpy as np
import torch
from PIL import Image
from torch import nn

from sfumato.train.settings import TrainSettings

COLORS = ("red", "green", "blue", "gold", "black", "white")


def encoded(color):
    stream = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(stream, "PNG")
    return stream.getvalue()


class Line:
    """The smallest job: fit a line to noise."""

    def __init__(self, rows=50):
        torch.manual_seed(0)
        self.module = nn.Sequential(
            nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )
        self.weights = torch.ones(rows)
        self.spoil_at = None

    def loss(self, rows, random):
        x = torch.randn(len(rows), 4, generator=random)
        if self.spoil_at is not None:
            self.spoil_at -= 1
            if self.spoil_at < 0:
                self.module[0].bias.data[0] = float("nan")
        return (self.module(x) - x.sum(1, keepdim=True)).square().mean()

    def preview(self):
        return Image.new("RGB", (4, 4))


SETTINGS = TrainSettings(
    steps=60,
    batch=8,
    learning_rate=1e-2,
    warmup=5,
    checkpoint_every=7,
    preview_every=1000,
    dtype="float32",
    device="cpu",
)


class Kernels(Line):
    """The same with convolutions whose weights lie in memory channels last, as a restorer's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = (
            nn.Unflatten(1, (4, 1, 1)),
            nn.Conv2d(4, 48, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(48, 40, 3, padding=1),
            nn.Flatten(),
            nn.Linear(40, 1),
        )
        self.module = nn.Sequential(*layers)
        for p in self.module.parameters():
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data


def write_plans(place):
    network = {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    settings = {"steps": 40, "batch": 4, "checkpoint_every": 4, "preview_every": 40, "warmup": 2}
    (place / "vae.json").write_text(
        json.dumps({"network": network, "settings": settings, "size": 16})
    )
    unet = {"block_out_channels": [16, 16], "norm_num_groups": 8, "attention_head_dim": 2}
    (place / "unet.json").write_text(
        json.dumps(
            {"network": unet, "settings": settings, "size": 16, "previews": ["a red square"]}
        )
    )
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
    }
    matcher = {"widths": [16, 16], "blocks": [1, 1], "groups": 4, "width": 8}
    (place / "match.json").write_text(
        json.dumps({"network": matcher, "settings": {**settings, "batch": 16}, "size": 16})
    )
    (place / "text.json").write_text(
        json.dumps({"network": text, "settings": settings, "vocabulary": 560})
    )


def write_phrases(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"a {c} square" for c in COLORS] + list(COLORS)
    vectors = np.random.default_rng(0).normal(size=(len(texts), 24)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 24)
    pq.write_table(
        pa.table({"text": texts, "weight": [1.0] * len(texts), "embedding": column}), path
    )
