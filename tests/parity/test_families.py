"""Whole folders as diffusers writes them: SD 2 (v prediction), SD XL and inpainting, tiny and
random, make the same pictures here.
"""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.conftest import TEXTS, UNET, VAE

from sfumato import image
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import PlainUNetConfig, UNet
from sfumato.errors import ModelError, OptionError
from sfumato.hub.describe import describe
from sfumato.hub.load import load
from sfumato.runtime import Streams
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.tasks.explain.experiments import explain
from sfumato.tasks.explain.trace import trace
from sfumato.types import Condition

BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
}
pytestmark = pytest.mark.filterwarnings("ignore")


def parts(folder, *, pad="<|endoftext|>", width=32, projection=None):
    """A tokenizer and a text encoder of theirs, sharing a small vocabulary of ours."""
    ours = CLIPTokenizer.train(TEXTS, 600, 16)
    ours.pad_token = pad
    ours.save(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
    config = transformers.CLIPTextConfig(
        vocab_size=ours.end + 1,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        hidden_act="gelu",
        bos_token_id=ours.begin,
        eos_token_id=ours.end,
        pad_token_id=ours.pad,
        projection_dim=projection or width,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, kind(config).eval()


def both(pipe, folder, prompt, negative="fox", **extra):
    """Bytes of our picture and of theirs, from the same noise."""
    pipe.save_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    ours = create(
        prompt,
        CreateOptions(
            model=str(folder), seed=5, steps=5, guidance_scale=3.0, negative_prompt=negative
        ),
    )[0].picture
    noise = Streams([5]).normal((1, 4, 8, 8))
    theirs = pipe(
        prompt,
        num_inference_steps=5,
        guidance_scale=3.0,
        negative_prompt=negative or None,
        latents=noise,
        output_type="np",
        **extra,
    ).images
    want = image.to_bytes(torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1).int()
    return image.to_bytes(image.to_tensor(ours)).int(), want


def test_stable_diffusion_2(tmp_path):
    torch.manual_seed(0)
    tokenizer, encoder = parts(tmp_path / "t", pad="!</w>")
    unet = diffusers.UNet2DConditionModel(
        **{**UNET, "use_linear_projection": True, "attention_head_dim": (2, 4)}
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction"),
        requires_safety_checker=False,
    )
    ours, theirs = both(pipe, tmp_path / "m", "a red apple")
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 1


def test_stable_diffusion_xl(tmp_path):
    torch.manual_seed(0)
    tokenizer, first = parts(tmp_path / "t")
    tokenizer_2, second = parts(tmp_path / "t2", pad="!</w>", width=48, projection=16)
    unet = diffusers.UNet2DConditionModel(
        **{
            **UNET,
            "cross_attention_dim": 80,
            "use_linear_projection": True,
            "transformer_layers_per_block": (2, 1),
        },
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 16,
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS),
        add_watermarker=False,
    )
    ours, theirs = both(pipe, tmp_path / "m", "a red apple")
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 1
    # an empty negative prompt is all zeros
    ours, zeroed = both(pipe, tmp_path / "m", "a red apple", negative="")
    assert (ours - zeroed).abs().max() <= 1
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    ours, encoded = both(pipe, tmp_path / "n", "a red apple", negative="")
    assert (ours - encoded).abs().max() <= 1
    assert (zeroed - encoded).abs().max() > 1
    told = trace("a red apple", CreateOptions(model=str(tmp_path / "m"), seed=5, steps=2))
    assert [w.piece for w in told.words] == ["<start>", "a", "red", "apple", "<end>"]
    assert told.layers[:2] == ("down 1.1.1, 8x8", "down 1.1.2, 8x8"), (
        "two blocks in each attention at the finest level"
    )
    assert torch.allclose(told.steps[0].attention.sum(dim=1), torch.ones(()), atol=1e-5)


def test_attention_is_seen_as_diffusers_sees_it(tiny, monkeypatch):
    """The weights that our trace shows against those that their processor multiplies with, at the
    same latents and noise.
    """
    model, kind = load(str(tiny)), diffusers.models.attention_processor
    told = trace(
        "a red apple",
        CreateOptions(model=str(tiny), seed=5, steps=2, guidance_scale=1.0, size=(24, 16)),
        model,
    )
    theirs = diffusers.UNet2DConditionModel.from_pretrained(str(tiny / "unet"))
    theirs.set_attn_processor(kind.AttnProcessor())
    scores, seen = kind.Attention.get_attention_scores, []

    def watched(self, query, key, mask=None):
        found = scores(self, query, key, mask)
        if self.is_cross_attention:
            seen.append(found.mean(dim=0))
        return found

    monkeypatch.setattr(kind.Attention, "get_attention_scores", watched)
    look = told.steps[0]
    c, (condition, _) = (
        model.denoiser.coefficients(torch.tensor([look.sigma])),
        model.text(["a red apple"], (24, 16)),
    )
    with torch.no_grad():
        theirs(float(c.c_in) * look.x[None], c.c_noise.float(), condition.tokens)
    assert len(seen) == len(told.layers) == 4
    for mine, found in zip(look.attention, seen, strict=True):
        every = 1 if len(found) == 96 else 2
        maps = found[:, [w.place for w in told.words]].T.unflatten(1, (8 // every, 12 // every))
        assert torch.allclose(mine[:-1, ::every, ::every], maps, atol=1e-5)


def test_inpainting(tmp_path):
    torch.manual_seed(0)
    tokenizer, encoder = parts(tmp_path / "t")
    pipe = diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**UNET | {"in_channels": 9}),
        safety_checker=None,
        feature_extractor=None,
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS),
        requires_safety_checker=False,
    )
    pipe.save_pretrained(str(tmp_path / "m"))
    pipe.set_progress_bar_config(disable=True)
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    hidden = np.zeros((16, 16), np.uint8)
    hidden[4:12, 4:12] = 255
    source.save(tmp_path / "s.png")
    Image.fromarray(hidden).save(tmp_path / "h.png")
    options = CreateOptions(
        model=str(tmp_path / "m"),
        seed=5,
        steps=5,
        guidance_scale=3.0,
        source=str(tmp_path / "s.png"),
        mask=str(tmp_path / "h.png"),
        strength=1.0,
    )
    ours = np.asarray(create("a red apple", options)[0].picture).astype(int)
    # Their pipeline samples the masked picture's latents; ours takes the mean: make theirs nearly
    # certain.
    pipe.vae.quant_conv.bias.data[4:] = -30
    pipe.vae.quant_conv.weight.data[4:] = 0
    theirs = pipe(
        "a red apple",
        image=source,
        mask_image=Image.fromarray(hidden),
        height=16,
        width=16,
        num_inference_steps=5,
        guidance_scale=3.0,
        negative_prompt="",
        latents=Streams([5]).normal((1, 4, 8, 8)),
        output_type="np",
        strength=1.0,
    ).images[0]
    want = (theirs * 255).round().astype(int)
    assert abs(ours - want)[hidden > 0].max() <= 1
    assert np.array_equal(ours[hidden == 0], np.asarray(source).astype(int)[hidden == 0])


PLAIN = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
# as the models of 2020
HO = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


@torch.no_grad()
@pytest.mark.parametrize(
    "config", [{**PLAIN, **HO}, {**PLAIN, "attention_head_dim": 8}], ids=["2020", "heads"]
)
def test_the_unet_without_text(config):
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**config).eval()
    for name, weights in theirs.named_parameters():
        if "to_q" in name:
            weights.mul_(20)  # so that attention is not even, and the number of heads matters
    ours = UNet(PlainUNetConfig.read(dict(theirs.config), "theirs").network()).eval()
    ours.load_state_dict(theirs.state_dict())
    x, times = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 700.0])
    want = theirs(x, times).sample
    torch.testing.assert_close(ours(x, times, Condition()), want, atol=1e-5, rtol=0)
    assert (ours(x, times.flip(0), Condition()) - want).abs().max() > 1e-3
    other = {
        **config,
        "attention_head_dim": 16,
        "downsample_padding": 1 - config.get("downsample_padding", 1),
    }
    wrong = UNet(PlainUNetConfig.read(other, "other").network()).eval()
    wrong.load_state_dict(theirs.state_dict())
    assert (wrong(x, times, Condition()) - want).abs().max() > 1e-4


@pytest.mark.parametrize("flat", [False, True], ids=["folders", "flat"])
def test_a_model_of_pixels_without_text(flat, tmp_path):
    """Their DDIM is ours where it, too, takes the noise that belongs to the clipped estimate; the
    oldest folders are flat.
    """
    torch.manual_seed(0)
    pipe = diffusers.DDIMPipeline(
        unet=diffusers.UNet2DModel(**PLAIN), scheduler=diffusers.DDIMScheduler()
    )
    pipe.save_pretrained(str(tmp_path))
    pipe.set_progress_bar_config(disable=True)
    if flat:
        for file in [*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()]:
            file.rename(tmp_path / file.name)
        (tmp_path / "unet").rmdir()
        (tmp_path / "scheduler").rmdir()
    made = create("", CreateOptions(model=str(tmp_path), seed=5, steps=5))[0].picture
    generator = torch.Generator().manual_seed(5)
    theirs = pipe(
        num_inference_steps=5,
        generator=generator,
        eta=0.0,
        use_clipped_model_output=True,
        output_type="np",
    ).images
    want = image.to_bytes(torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1).int()
    assert (image.to_bytes(image.to_tensor(made)).int() - want).abs().max() <= 1
    assert want.float().std() > 1
    described, loaded = describe(str(tmp_path)), load(str(tmp_path)).defaults
    assert described["size"] == [16, 16]
    assert described["guidance_scale"] == loaded.guidance_scale == 1
    shown = explain("", CreateOptions(model=str(tmp_path), seed=5, steps=5))
    assert np.array_equal(np.asarray(shown.runs[0].trace.made.picture), np.asarray(made))
    assert (shown.runs[0].trace.words, shown.runs[0].trace.layers) == ((), ())
    shown.write(tmp_path / "page.html")
    with pytest.raises(OptionError, match="takes no text"):
        create("a red apple", CreateOptions(model=str(tmp_path)))
    for channels in (1, 2):
        shape = {"in_channels": channels, "out_channels": channels}
        other = diffusers.DDIMPipeline(
            unet=diffusers.UNet2DModel(**{**PLAIN, **shape}), scheduler=pipe.scheduler
        )
        other.save_pretrained(str(tmp_path / str(channels)))
    gray = np.asarray(
        create("", CreateOptions(model=str(tmp_path / "1"), seed=5, steps=2))[0].picture
    )
    assert (gray[..., 0] == gray[..., 2]).all() and gray.std() > 1
    with pytest.raises(ModelError, match="2 channels; pixels need 1 .gray. or 3"):
        load(str(tmp_path / "2"))
