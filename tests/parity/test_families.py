"""Whole folders as diffusers writes them: SD 2 (v prediction), SD XL and inpainting, tiny and random, make the same pictures here."""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.conftest import TEXTS, UNET, VAE

from sfumato import image
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.runtime import Streams
from sfumato.tasks.create import create
from sfumato.tasks.options import CreateOptions

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
pytestmark = pytest.mark.filterwarnings("ignore")


def parts(folder, *, pad="<|endoftext|>", width=32, projection=None):
    """A tokenizer and a text encoder of theirs, sharing a small vocabulary of ours."""
    ours = CLIPTokenizer.train(TEXTS, 600, 16)
    ours.pad_token = pad
    ours.save(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
    config = transformers.CLIPTextConfig(
        vocab_size=ours.end + 1, hidden_size=width, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=16,
        hidden_act="gelu", bos_token_id=ours.begin, eos_token_id=ours.end, pad_token_id=ours.pad, projection_dim=projection or width,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, kind(config).eval()


def both(pipe, folder, prompt, negative="fox", **extra):
    """Bytes of our picture and of theirs, from the same noise."""
    pipe.save_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    ours = create(prompt, CreateOptions(model=str(folder), seed=5, steps=5, guidance_scale=3.0, negative_prompt=negative))[0].picture
    noise = Streams([5]).normal((1, 4, 8, 8))
    theirs = pipe(
        prompt, num_inference_steps=5, guidance_scale=3.0, negative_prompt=negative or None, latents=noise, output_type="np", **extra
    ).images
    want = image.to_bytes(torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1).int()
    return image.to_bytes(image.to_tensor(ours)).int(), want


def test_stable_diffusion_2(tmp_path):
    torch.manual_seed(0)
    tokenizer, encoder = parts(tmp_path / "t", pad="!</w>")
    unet = diffusers.UNet2DConditionModel(**{**UNET, "use_linear_projection": True, "attention_head_dim": (2, 4)})
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE), text_encoder=encoder, tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction"), requires_safety_checker=False,
    )  # fmt: skip
    ours, theirs = both(pipe, tmp_path / "m", "a red apple")
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 1


def test_stable_diffusion_xl(tmp_path):
    torch.manual_seed(0)
    tokenizer, first = parts(tmp_path / "t")
    tokenizer_2, second = parts(tmp_path / "t2", pad="!</w>", width=48, projection=16)
    unet = diffusers.UNet2DConditionModel(
        **{**UNET, "cross_attention_dim": 80, "use_linear_projection": True, "transformer_layers_per_block": (2, 1)},
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=6 * 256 + 16,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL(**VAE), text_encoder=first, text_encoder_2=second, tokenizer=tokenizer, tokenizer_2=tokenizer_2, unet=unet,
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS), add_watermarker=False,
    )  # fmt: skip
    ours, theirs = both(pipe, tmp_path / "m", "a red apple")
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 1
    ours, zeroed = both(pipe, tmp_path / "m", "a red apple", negative="")  # an empty negative prompt is all zeros
    assert (ours - zeroed).abs().max() <= 1
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    ours, encoded = both(pipe, tmp_path / "n", "a red apple", negative="")
    assert (ours - encoded).abs().max() <= 1
    assert (zeroed - encoded).abs().max() > 1


def test_inpainting(tmp_path):
    torch.manual_seed(0)
    tokenizer, encoder = parts(tmp_path / "t")
    pipe = diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers.AutoencoderKL(**VAE), text_encoder=encoder, tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**UNET | {"in_channels": 9}), safety_checker=None,
        feature_extractor=None, scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS), requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(str(tmp_path / "m"))
    pipe.set_progress_bar_config(disable=True)
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    hidden = np.zeros((16, 16), np.uint8)
    hidden[4:12, 4:12] = 255
    source.save(tmp_path / "s.png")
    Image.fromarray(hidden).save(tmp_path / "h.png")
    options = CreateOptions(
        model=str(tmp_path / "m"), seed=5, steps=5, guidance_scale=3.0, source=str(tmp_path / "s.png"), mask=str(tmp_path / "h.png"), strength=1.0
    )
    ours = np.asarray(create("a red apple", options)[0].picture).astype(int)
    # Their pipeline samples the masked picture's latents; ours takes the mean: make theirs nearly certain.
    pipe.vae.quant_conv.bias.data[4:] = -30
    pipe.vae.quant_conv.weight.data[4:] = 0
    theirs = pipe(
        "a red apple", image=source, mask_image=Image.fromarray(hidden), height=16, width=16, num_inference_steps=5, guidance_scale=3.0,
        negative_prompt="", latents=Streams([5]).normal((1, 4, 8, 8)), output_type="np", strength=1.0,
    ).images[0]  # fmt: skip
    want = (theirs * 255).round().astype(int)
    assert abs(ours - want)[hidden > 0].max() <= 1
    assert np.array_equal(ours[hidden == 0], np.asarray(source).astype(int)[hidden == 0])
