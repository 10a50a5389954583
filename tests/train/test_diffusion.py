"""From pictures to a model: autoencoder, text encoder, diffusion model and matcher."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.train.common import COLORS, write_phrases, write_plans

from sfumato import image
from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.errors import ConfigError, ModelError, OptionError, TrainingError
from sfumato.hub.config import SchedulerConfig
from sfumato.hub.describe import describe
from sfumato.hub.files import network_from
from sfumato.hub.load import load
from sfumato.hub.save import save_scheduler
from sfumato.progress import result_of
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.train.autoencoder import train_autoencoder
from sfumato.train.diffusion import DiffusionJob, train_diffusion
from sfumato.train.latents import Latents
from sfumato.train.match import train_matcher
from sfumato.train.pack import pack
from sfumato.train.text import train_text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_road_from_pictures_to_a_model(folder, tmp_path):
    """Text encoder, autoencoder, diffusion, and a picture from the model that came out."""
    write_plans(tmp_path)
    write_phrases(tmp_path / "phrases.parquet")
    list(train_text(tmp_path / "phrases.parquet", tmp_path / "t", tmp_path / "text.json", {}))
    notes = [
        e
        for e in train_autoencoder(folder, tmp_path / "v", tmp_path / "vae.json", {})
        if isinstance(e, str)
    ]
    assert any("skipped 1 picture:" in n for n in notes)
    list(
        train_diffusion(
            folder, tmp_path / "m", tmp_path / "v", tmp_path / "t", tmp_path / "unet.json", {}
        )
    )
    made = create("a red square", CreateOptions(model=str(tmp_path / "m"), seed=0, steps=3))
    assert made[0].picture.size == (16, 16)
    assert (tmp_path / "m" / "previews" / "0000040.png").exists()
    list(train_matcher(folder, tmp_path / "m", tmp_path / "m", tmp_path / "match.json", {}))
    best = create(
        "a red square", CreateOptions(model=str(tmp_path / "m"), seed=0, steps=3, best_of=3)
    )
    assert best[0].settings["best_of"] == 3
    list(
        train_text(
            tmp_path / "phrases.parquet", tmp_path / "t2", tmp_path / "text.json", {"seed": 5}
        )
    )
    with pytest.raises(TrainingError, match="its encoders was"):
        list(
            train_diffusion(
                folder, tmp_path / "m", tmp_path / "v", tmp_path / "t2", tmp_path / "unet.json", {}
            )
        )
    own = {
        "settings": {"steps": 2, "batch": 4, "preview_every": 2},
        "size": 16,
        "defaults": {"steps": 3},
        "previews": [],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    list(
        train_diffusion(
            folder,
            tmp_path / "on",
            None,
            None,
            tmp_path / "own.json",
            {"learning_rate": 1e-9},
            str(tmp_path / "m"),
        )
    )
    one, other = load(str(tmp_path / "m")), load(str(tmp_path / "on"))
    for name, value in one.network.state_dict().items():
        assert torch.allclose(value, other.network.state_dict()[name], atol=1e-3), (
            "it began where the model stood"
        )
    assert other.space.config.scaling_factor == one.space.config.scaling_factor
    assert other.defaults.steps == 3
    assert torch.equal(one.matcher.to_space.weight, other.matcher.to_space.weight)


@pytest.mark.slow
def test_diffusion_in_pixels(folder, tmp_path):
    """No autoencoder: the same job on pictures as they are; the model learns colors from their
    names, opens, and can be trained on.
    """
    network = {
        "block_out_channels": [16, 32],
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    }
    settings = {
        "steps": 300,
        "batch": 12,
        "learning_rate": 0.004,
        "warmup": 2,
        "ema_decay": 0.9,
        "preview_every": 300,
    }
    (tmp_path / "p.json").write_text(
        json.dumps(
            {
                "network": network,
                "settings": settings,
                "size": 8,
                "defaults": {"steps": 4, "guidance_scale": 1},
            }
        )
    )
    list(
        train_diffusion(
            folder, tmp_path / "m", None, Path("icons"), tmp_path / "p.json", {}, pixels=True
        )
    )
    assert not (tmp_path / "m" / "vae").exists()
    assert describe(str(tmp_path / "m"))["size"] == [8, 8]
    model = load(str(tmp_path / "m"))
    assert (model.size, model.unit) == ((8, 8), 2)
    colors = torch.cat([image.to_tensor(Image.new("RGB", (8, 8), color)) for color in COLORS])
    made = create([f"a {color} square" for color in COLORS], CreateOptions(seed=0), model)
    distance = torch.cdist(
        torch.cat([image.to_tensor(m.picture) for m in made]).flatten(1), colors.flatten(1)
    )
    assert (distance.argmin(dim=1) == torch.arange(len(COLORS))).sum() >= 4
    (tmp_path / "own.json").write_text(
        json.dumps({"settings": {"steps": 2, "batch": 4}, "size": 8})
    )
    list(
        train_diffusion(
            folder, tmp_path / "on", None, None, tmp_path / "own.json", {}, str(tmp_path / "m")
        )
    )
    assert load(str(tmp_path / "on")).size == (8, 8)
    with pytest.raises(OptionError, match="leave out these options"):
        list(
            train_diffusion(
                folder, tmp_path / "no", None, None, None, {}, str(tmp_path / "m"), pixels=True
            )
        )


def test_noise_on_the_states_of_texts(folder, tiny, tmp_path, monkeypatch):
    """A share of their deviation, on captions and not on the empty text; without it the states are
    the text's own.
    """
    model, pictures = (
        load(str(tiny)),
        result_of(pack(folder, 16, tmp_path / "cache", captions=True)),
    )
    latents, seen = Latents(pictures, model.space, model.text, tmp_path / "cache"), []
    list(latents.prepare("key", states=True))
    monkeypatch.setattr(
        "sfumato.train.diffusion.denoising_loss",
        lambda denoiser, z, corruption, condition, generator: seen.append(condition.tokens),
    )
    rows = torch.arange(6).repeat(40)
    for share in (0.0, 0.5):
        DiffusionJob(model.network.config, latents, model.scheduler, [], text_noise=share).loss(
            rows, torch.Generator().manual_seed(0)
        )
    own = (
        latents.states([latents.choices[r][0] for r in rows]),
        latents.states([latents.texts.index("")] * len(rows)),
    )
    assert all(any(torch.equal(s, o) for o in pair) for s, *pair in zip(seen[0], *own, strict=True))
    dropped = (seen[1] == own[1]).flatten(1).all(dim=1)
    assert 5 < dropped.sum() < 50, "a tenth has the empty text, as it is"
    noise = (seen[1] - own[0])[~dropped]
    assert float(noise.std()) == pytest.approx(
        0.5 * float(latents.states(range(len(latents.texts))).std()), rel=0.02
    )


def test_a_model_that_is_trained_on_keeps_its_parts(folder, tiny, tmp_path):
    for parts, sentence in (
        ((tmp_path, None, str(tiny)), "leave out these options"),
        ((None, None, None), "give --autoencoder .* or --pixels"),
    ):
        with pytest.raises(OptionError, match=sentence):
            list(train_diffusion(folder, tmp_path / "o", *parts[:2], None, {}, parts[2]))
    assert not (tmp_path / "o").exists()


def test_a_model_is_trained_on_at_another_size(folder, tiny, tmp_path):
    settings = {"steps": 2, "batch": 2, "preview_every": 2}
    (tmp_path / "p.json").write_text(json.dumps({"size": 32, "settings": settings}))
    list(
        train_diffusion(
            folder, tmp_path / "m", None, None, tmp_path / "p.json", {"device": "cpu"}, str(tiny)
        )
    )
    assert load(str(tmp_path / "m")).size == (32, 32)


@pytest.mark.parametrize(
    "given",
    [
        {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "_class_name": "EulerDiscreteScheduler",
        },
        {"use_karras_sigmas": True, "_class_name": "DPMSolverMultistepScheduler"},
        {"_class_name": "DDIMScheduler", "set_alpha_to_one": False},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
        {"_class_name": "UniPCMultistepScheduler"},
        {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True},
    ],
)
def test_a_schedule_is_written_as_it_was_read(given, tmp_path):
    config = SchedulerConfig.from_file(
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **given},
        "here",
    )
    save_scheduler(config, tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert SchedulerConfig.from_file(written, "there") == config
    kept = getattr(diffusers, given["_class_name"]).from_config(written).config
    assert kept["timestep_spacing"] == config.timestep_spacing
    assert config.timestep_spacing == given.get(
        "timestep_spacing", "leading" if "DDIM" in given["_class_name"] else "linspace"
    )


def test_training_leaves_torchs_generator_as_it_was(folder, tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"size": 16, "settings": {"steps": 2, "batch": 2}}))
    weights = []
    for state in (1, 2):
        torch.manual_seed(state)
        before, output = torch.get_rng_state(), tmp_path / str(state)
        list(train_autoencoder(folder, output, settings, {"seed": 3}))
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(load_file(output / "diffusion_pytorch_model.safetensors"))
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_matcher_learns_which_text_belongs_to_which_picture(folder, tmp_path):
    """Six plain colors: each picture finds its own text among the six."""
    write_plans(tmp_path)
    write_phrases(tmp_path / "phrases.parquet")
    list(
        train_text(
            tmp_path / "phrases.parquet", tmp_path / "t", tmp_path / "text.json", {"steps": 4}
        )
    )
    list(
        train_matcher(
            folder,
            tmp_path / "m",
            tmp_path / "t",
            tmp_path / "match.json",
            {"steps": 150, "learning_rate": 0.01},
        )
    )
    clip = network_from(CLIPText, CLIPTextConfig, tmp_path / "t" / "text_encoder")
    text = TextEncoder(clip, CLIPTokenizer.load(tmp_path / "t" / "tokenizer"))
    matcher = network_from(Matcher, MatcherConfig, tmp_path / "m" / "matcher")
    pictures = torch.cat([image.to_tensor(Image.new("RGB", (16, 16), color)) for color in COLORS])
    scores = (
        matcher.pictures(pictures)
        @ matcher.texts(text.pooled([f"a {color} square" for color in COLORS])).T
    )
    assert scores.argmax(dim=1).tolist() == list(range(6))
    assert scores.argmax(dim=0).tolist() == list(range(6))


def test_previews_have_their_captions():
    pictures = [Image.new("RGB", (64, 64), "red")] * 3
    plain, told = (
        image.sheet(pictures, 3),
        image.sheet(pictures, 3, captions=["a red apple, Fluent flat emoji", "x", ""]),
    )
    assert told.size[0] == plain.size[0] and told.size[1] > plain.size[1]
    below = np.asarray(told.convert("L"))[68:]
    assert (below[:, :66] < 128).sum() > 3 * (below[:, 66:130] < 128).sum() > 0
    assert (below[:, 134:] == 255).all()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"network": {"in_channels": 1}}, "in_channels is 1 and out_channels is 3"),
        ({"shift": float("inf")}, "shift"),
        ({"defaults": {"size": [15, 16]}}, "size 15 is not a multiple"),
        ({"defaults": {"guidance_scale": float("nan")}}, "guidance_scale"),
        ({"defaults": {"style": "zz"}}, "unknown style"),
        ({"scheduler": {"num_train_timesteps": 10**9}}, "num_train_timesteps"),
        ({"settings": {"batch": 0}}, "batch"),
    ],
)
def test_wrong_configs_are_refused_before_data_are_read(folder, tmp_path, plan, said):
    (tmp_path / "c.json").write_text(json.dumps({"size": 16, **plan}))
    work = train_diffusion(
        folder, tmp_path / "m", None, None, tmp_path / "c.json", {"steps": 1}, pixels=True
    )
    with pytest.raises((ConfigError, OptionError, ModelError), match=said):
        list(work)
    assert not (tmp_path / "m").exists()


def test_a_matcher_needs_several_pictures_and_a_size(folder, tmp_path):
    for given, plan, said in (
        ({"batch": 1}, {}, "--batch must be at least 2"),
        ({}, {"size": 8}, "size 8 is too small; at least 16"),
        ({}, {"settings": {"compile": True}}, "compile has no effect"),
    ):
        (tmp_path / "c.json").write_text(json.dumps(plan))
        with pytest.raises((ConfigError, OptionError, ModelError), match=said):
            list(train_matcher(folder, tmp_path / "m", Path("icons"), tmp_path / "c.json", given))
    assert not (tmp_path / "m").exists()


def test_full_needs_a_model(folder, tmp_path, run):
    code, _, err = run("train", "diffusion", folder, "--pixels", "--full", "--output", tmp_path)
    assert code == 2 and "--full needs --start" in err


def test_the_autoencoder_of_a_bundled_model(folder, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"size": 16, "previews": []}))
    given = {"steps": 1, "batch": 2, "device": "cpu"}
    list(train_diffusion(folder, tmp_path / "m", Path("icons"), None, tmp_path / "c.json", given))
    own, bundled = load(str(tmp_path / "m")).space, load("icons").space
    assert torch.equal(own.encoder.conv_in.weight, bundled.encoder.conv_in.weight)
