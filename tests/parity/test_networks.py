"""Our networks against diffusers and transformers, on tiny random weights."""

import json

import diffusers
import pytest
import torch
import transformers
from tests.conftest import TINY

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ConfigError, ModelError
from sfumato.hub.config import SchedulerConfig
from sfumato.layers import sinusoids
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.types import Condition

FAMILIES = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "inpaint": {"in_channels": 9},
    "upscale": {"in_channels": 7, "num_class_embeds": 10, "only_cross_attention": (True, False)},
    "xl": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
        "transformer_layers_per_block": (2, 1),
        "use_linear_projection": True,
    },
    "attention without text": {
        "down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
}


def pair(family):
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**{**TINY, **FAMILIES[family]}).eval()
    ours = UNet(UNetConfig.read(dict(theirs.config), family)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(config):
    x, times, tokens = (
        torch.randn(2, config.in_channels, 16, 16),
        torch.tensor([10.0, 700.0]),
        torch.randn(2, 7, 32),
    )
    extra, vector = {}, None
    if config.num_class_embeds:
        extra, vector = {"class_labels": torch.tensor([3, 5])}, torch.tensor([[3.0], [5.0]])
    if config.addition_embed_type:
        pooled, sizes = torch.randn(2, 16), torch.rand(2, 6) * 500
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        vector = torch.cat([pooled, sinusoids(sizes.flatten(), 8).view(2, -1)], dim=-1)
    return x, times, Condition(tokens, vector), extra


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_unet(family):
    theirs, ours = pair(family)
    x, times, condition, extra = inputs(ours.config)
    want = theirs(x, times, condition.tokens, **extra).sample
    torch.testing.assert_close(ours(x, times, condition), want, atol=1e-5, rtol=0)
    # Negative controls: each input matters, so equality is no accident.
    assert (ours(x, times.flip(0), condition) - want).abs().max() > 1e-3
    assert (
        ours(x, times, Condition(condition.tokens.flip(0), condition.vector)) - want
    ).abs().max() > 1e-4
    ours.conv_out.bias.data[0] += 0.01
    assert (ours(x, times, condition) - want).abs().max() > 1e-3


@torch.no_grad()
def test_wrong_head_count_loads_but_is_wrong():
    theirs, _ = pair("sd1")
    ours = UNet(UNetConfig.read({**theirs.config, "attention_head_dim": 8}, "x")).eval()
    ours.load_state_dict(theirs.state_dict())
    x, times, condition, _ = inputs(ours.config)
    assert (
        ours(x, times, condition) - theirs(x, times, condition.tokens).sample
    ).abs().max() > 1e-4


@torch.no_grad()
def test_unet_odd_size():
    theirs, ours = pair("sd1")
    x, condition = torch.randn(1, 4, 15, 9), Condition(torch.randn(1, 7, 32))
    want = theirs(x, torch.tensor(5.0), condition.tokens).sample
    torch.testing.assert_close(ours(x, torch.tensor([5.0]), condition), want, atol=1e-5, rtol=0)


FULL = {
    "sd1.5": {"cross_attention_dim": 768},
    "sd2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "xl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.mark.parametrize(("name", "keys"), [("sd1.5", 686), ("sd2.1", 686), ("xl", 1680)])
def test_full_size_keys_and_shapes(name, keys):
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**FULL[name])
        ours = UNet(UNetConfig.read(dict(theirs.config), name))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert len(ours.state_dict()) == keys


@torch.no_grad()
def test_autoencoder():
    torch.manual_seed(0)
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    theirs = diffusers.AutoencoderKL(block_out_channels=(32, 64), **kinds).eval()
    ours = AutoencoderKL(AutoencoderConfig.read(dict(theirs.config), "vae")).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    moments = theirs.encode(x).latent_dist
    torch.testing.assert_close(ours.moments(x)[0], moments.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.moments(x)[1], moments.logvar, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours.decode(ours.encode(x)), theirs.decode(moments.mean).sample, atol=1e-5, rtol=0
    )
    assert (
        ours.decode(ours.encode(x.flip(0))) - theirs.decode(moments.mean).sample
    ).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clip_text(act):
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act=act,
        eos_token_id=99,
        bos_token_id=98,
        projection_dim=16,
    )
    theirs = transformers.CLIPTextModelWithProjection(config).eval()
    ours = CLIPText(
        CLIPTextConfig.read(
            {**config.to_dict(), "architectures": ["CLIPTextModelWithProjection"]}, "text"
        )
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.tensor([[98, 5, 6, 99, 99], [98, 5, 6, 7, 99]])
    want, made = theirs(ids, output_hidden_states=True), ours(ids)
    torch.testing.assert_close(made.last, want.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.layers[-2], want.hidden_states[-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.pooled, want.text_embeds, atol=1e-5, rtol=0)
    assert (ours(ids.flip(1)).last - want.last_hidden_state).abs().max() > 1e-3


def test_tokenizer(tmp_path):
    ours = CLIPTokenizer.train(
        ["a red apple's 12 café", "puppy dogs, the big-red dog"] * 20, 800, 32
    )
    ours.save(tmp_path)
    theirs, loaded = (
        transformers.CLIPTokenizer.from_pretrained(str(tmp_path)),
        CLIPTokenizer.load(tmp_path),
    )
    for text in ("A red  apple's 123, café \U0001f600!!", "puppy-dog\n the (big)", "", "ÀÉ 你好 x"):
        want = theirs(text)["input_ids"]
        assert [ours.begin, *ours.encode(text), ours.end] == want
        assert loaded.encode(text) == ours.encode(text)


def test_config_names_what_it_refuses():
    with pytest.raises(ConfigError, match=r"time_embedding_type='fourier'"):
        UNetConfig.read({"time_embedding_type": "fourier"}, "unet/config.json")
    with pytest.raises(ConfigError, match=r"brand_new=1 is not a known key"):
        UNetConfig.read({"brand_new": 1}, "unet/config.json")


def test_tokens_learnt_later_and_the_older_place_of_the_pad_token(tmp_path):
    """As textual inversion adds them, and as Stable Diffusion 2 names its pad token; saved and read
    back, too.
    """
    CLIPTokenizer.train(["a red apple", "a photo of a cat toy!"] * 20, 600).save(tmp_path / "a")
    last = len(json.loads((tmp_path / "a/vocab.json").read_text()))
    (tmp_path / "a/added_tokens.json").write_text(json.dumps({"<cat-toy>": last}))
    theirs, ours = (
        transformers.CLIPTokenizer.from_pretrained(str(tmp_path / "a")),
        CLIPTokenizer.load(tmp_path / "a"),
    )
    text = "a photo of a <cat-toy>, red"
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert last in ours.encode(text)
    ours.save(tmp_path / "b")
    assert CLIPTokenizer.load(tmp_path / "b").encode(text) == ours.encode(text)
    (tmp_path / "a/special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert CLIPTokenizer.load(tmp_path / "a").pad == 0
    for wrong in ({"model_max_length": None}, {"model_max_length": "x"}, {"model_max_length": 2}):
        (tmp_path / "a/tokenizer_config.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match="holds no CLIP tokenizer"):
            CLIPTokenizer.load(tmp_path / "a")


XL = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
AVERAGED = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 37000,
    "power": 0.6667,
    "update_after_step": 0,
}


def test_configs_as_they_were_released():
    """Stable Diffusion XL and its inpainting network, whose notes of averaging are no part of the
    network.
    """
    assert UNetConfig.read(XL, "unet").transformer_layers_per_block == (1, 2, 10)
    assert (
        UNetConfig.read(
            {**XL, **AVERAGED, "use_ema_warmup": False, "in_channels": 9}, "unet"
        ).in_channels
        == 9
    )
    texts = {
        "architectures": ["CLIPTextModelWithProjection"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "pad_token_id": 1,
        "projection_dim": 1280,
        "torch_dtype": "float16",
        "transformers_version": "4.32.0.dev0",
        "vocab_size": 49408,
    }
    assert CLIPTextConfig.read(texts, "text").with_projection
    levels = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
    }
    vae = {
        "act_fn": "silu",
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
    }
    assert (
        AutoencoderConfig.read(
            {**vae, **levels, "out_channels": 3, "sample_size": 1024, "scaling_factor": 0.13025},
            "vae",
        ).scaling_factor
        == 0.13025
    )
    shared = {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
    }
    shared |= {
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    euler = {
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    }
    assert (
        SchedulerConfig.from_file(
            {**shared, **euler, "_class_name": "EulerDiscreteScheduler"}, "x"
        ).sampler
        == "euler"
    )
    assert (
        SchedulerConfig.from_file({**shared, "_class_name": "PNDMScheduler"}, "x").sampler == "lms"
    )
