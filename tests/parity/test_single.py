"""Single-file checkpoints: our names of their weights against diffusers' converters, and the same
pictures as from a folder.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from tests.conftest import UNET, VAE, make_tiny

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ModelError
from sfumato.hub import names, single
from sfumato.hub.describe import describe
from sfumato.hub.load import load
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create


def as_one(unet, vae, clip, family):
    """One dict under the original code's names, from state dicts under ours."""
    out = {single.UNET + names.unet_name(k, family.unet): v for k, v in unet.items()}
    out |= {single.VAE + names.vae_name(k, family.vae): v for k, v in vae.items()}
    text = family.texts[0]
    if not text.open_clip:
        return out | {text.prefix + k: v for k, v in clip.items()}
    thirds = {}
    for k, v in clip.items():
        name = text.prefix + names.replaced(k, names.OPEN_CLIP)
        if "in_proj" in name:
            thirds.setdefault(name, {})["qkv".index(k.split("self_attn.")[1][0])] = v
        else:
            out[name] = v
    return out | {name: torch.cat([found[i] for i in range(3)]) for name, found in thirds.items()}


@pytest.mark.parametrize("width", single.FAMILIES)
def test_every_name_at_full_size(width):
    family = single.FAMILIES[width]
    with torch.device("meta"):
        unet, vae = UNet(family.unet).state_dict(), AutoencoderKL(family.vae).state_dict()
    one = as_one(unet, vae, {}, replace(family, texts=(replace(family.texts[0], open_clip=False),)))
    assert len(one) == len(unet) + len(vae)
    config = {
        **family.unet.model_dump(),
        "class_embed_type": None,
        "transformer_layers_per_block": 1,
    }
    back = theirs.convert_ldm_unet_checkpoint(dict(one), config)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in unet.items()}
    back = theirs.convert_ldm_vae_checkpoint(
        dict(one), {"down_block_types": (0,) * 4, "up_block_types": (0,) * 4}
    )
    assert back.keys() == vae.keys()


def test_open_clip_names():
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        with_projection=True,
    )
    clip = CLIPText(config)
    text = names.Text("conditioner.embedders.1.model.", config, True)
    family = replace(single.FAMILIES[1024], texts=(text,))
    one = as_one({}, {}, clip.state_dict(), family)
    one[text.prefix + "text_projection"] = one[text.prefix + "text_projection"].T.contiguous()
    found = names.clip_weights(one, text, "x")
    assert all(torch.equal(found[k], v) for k, v in clip.state_dict().items())
    model = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(hidden_size=32, projection_dim=32)
    )
    back = theirs.convert_open_clip_checkpoint(model, one, prefix=text.prefix)
    assert {k.removeprefix("text_model."): v.shape for k, v in back.items()} == {
        k.removeprefix("text_model."): v.shape for k, v in found.items()
    }
    assert all(
        torch.equal(v, clip.state_dict()[k if k in clip.state_dict() else f"text_model.{k}"])
        for k, v in back.items()
    )


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A tiny model as a folder and as one file, with a family made for it."""
    folder = make_tiny(tmp_path / "folder")
    tokenizer = CLIPTokenizer.load(folder / "tokenizer")
    config = CLIPTextConfig.read(
        json.loads((folder / "text_encoder/config.json").read_text()), "text"
    )
    text = names.Text("cond_stage_model.transformer.", config, False)
    family = replace(
        single.FAMILIES[768],
        unet=UNetConfig(**UNET),
        vae=AutoencoderConfig(**VAE),
        texts=(text,),
        guidance=3.0,
    )
    monkeypatch.setitem(single.FAMILIES, 32, family)
    monkeypatch.setitem(
        single.SHAPES,
        "width",
        f"{single.UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    )
    monkeypatch.setattr(CLIPTokenizer, "original", classmethod(lambda cls, pad=None: tokenizer))
    parts = (
        load_file(p)
        for p in (
            folder / "unet/diffusion_pytorch_model.safetensors",
            folder / "vae/diffusion_pytorch_model.safetensors",
        )
    )
    one = as_one(*parts, load_file(folder / "text_encoder/model.safetensors"), family)
    one["model_ema.decay"] = torch.zeros(1)  # files hold more than the networks
    path = tmp_path / "one.safetensors"
    save_file({k: v.contiguous() for k, v in one.items()}, path)
    return folder, path


def test_the_same_picture_from_a_file_and_from_a_folder(checkpoint):
    pictures = []
    for model in checkpoint:
        options = CreateOptions(
            model=str(model), seed=3, steps=3, guidance_scale=3.0, schedule="karras"
        )
        pictures.append(np.asarray(create("a red apple", options)[0].picture))
    assert (pictures[0] == pictures[1]).all()
    assert pictures[0].std() > 1
    assert describe(str(checkpoint[1]))["size"] == [16, 16]


def test_what_a_file_predicts(checkpoint):
    family, _ = single.identify(checkpoint[1])
    two = single.FAMILIES[1024]
    assert single.prediction_type(family, {}, {}) == "epsilon"
    assert single.prediction_type(family, {}, {"v_pred": torch.zeros(())}) == "v_prediction"
    for spread, told in ((0.05, "epsilon"), (0.2, "v_prediction")):
        bias = spread * torch.tensor([-1.0, 1.0])
        assert single.prediction_type(two, {}, {single.TELLING: bias}) == told
    assert single.prediction_type(two, {"modelspec.prediction_type": "epsilon"}, {}) == "epsilon"
    assert (
        single.prediction_type(
            replace(two, unet=two.unet.model_copy(update={"in_channels": 9})), {}, {}
        )
        == "epsilon"
    )


def test_a_file_that_is_no_checkpoint(checkpoint, tmp_path):
    path = checkpoint[1]
    weights = load_file(path)
    for change, word in (
        (single.SHAPES["channels"], "no whole checkpoint"),
        (single.VAE + "decoder.conv_in.weight", "lacks weight"),
    ):
        save_file({k: v for k, v in weights.items() if k != change}, tmp_path / "less.safetensors")
        with pytest.raises(ModelError, match=word):
            single.read(tmp_path / "less.safetensors")
    for extra, word in (
        ("edm_mean", "another noise scaling"),
        (single.UNET + "label_emb.0.0.weight", "of another kind"),
    ):
        save_file({**weights, extra: torch.zeros(1)}, tmp_path / "more.safetensors")
        with pytest.raises(ModelError, match=word):
            single.read(tmp_path / "more.safetensors")
    save_file({**weights, single.SHAPES["width"]: torch.zeros(3)}, tmp_path / "flat.safetensors")
    with pytest.raises(ModelError, match="none of the known families"):
        single.read(tmp_path / "flat.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="may be truncated"):
        single.identify(tmp_path / "cut.safetensors")


VARIANTS = {
    "names without text_model": lambda w: {
        k.replace(".transformer.text_model.", ".transformer."): v for k, v in w.items()
    },
    "attention of the autoencoder by its new names": lambda w: {
        k.replace("attn_1.q.", "attn_1.to_q.")
        .replace("attn_1.k.", "attn_1.to_k.")
        .replace("attn_1.v.", "attn_1.to_v.")
        .replace("attn_1.proj_out.", "attn_1.to_out.0.")
        .replace("attn_1.norm.", "attn_1.group_norm."): v
        for k, v in w.items()
    },
    "a prefix": lambda w: {f"state_dict.{k}": v for k, v in w.items()},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoints_in_variants(checkpoint, tmp_path, variant):
    changed = VARIANTS[variant](load_file(checkpoint[1]))
    assert changed.keys() != load_file(checkpoint[1]).keys()
    save_file(changed, tmp_path / "other.safetensors")
    options = {"seed": 3, "steps": 2, "schedule": "karras"}
    made = [
        np.asarray(create("x", CreateOptions(model=str(p), **options))[0].picture)
        for p in (checkpoint[1], tmp_path / "other.safetensors")
    ]
    assert np.array_equal(*made)


@pytest.mark.parametrize("told", ["v", "v_prediction", "V_Prediction"])
def test_how_a_header_says_what_is_predicted(checkpoint, told):
    family, _ = single.identify(checkpoint[1])
    assert single.prediction_type(family, {"modelspec.prediction_type": told}, {}) == "v_prediction"
    assert single.prediction_type(family, {"modelspec.prediction_type": ""}, {}) == "epsilon"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("emb_params", "a textual inversion"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux checkpoint"),
        ("joint_blocks.0.x", "Stable Diffusion 3"),
        ("input_blocks.0.0.weight", "a U-Net alone"),
        ("decoder.conv_in.weight", "an autoencoder alone"),
        ("text_model.x", "a text encoder alone"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, what):
    save_file({name: torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"it is .*{what.removeprefix('a ')}"):
        single.read(tmp_path / "x.safetensors")


def test_parts_that_a_checkpoint_lacks(checkpoint, tmp_path):
    weights = load_file(checkpoint[1])
    for prefix, what in ((single.VAE, "no autoencoder"), ("cond_stage_model.", "no text encoder")):
        save_file(
            {k: v for k, v in weights.items() if not k.startswith(prefix)},
            tmp_path / "less.safetensors",
        )
        with pytest.raises(ModelError, match=what):
            single.read(tmp_path / "less.safetensors")


def sharded(unet):
    weights = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names, places = sorted(weights), {}
    for k, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{k}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, unet / file)
        places |= dict.fromkeys(part, file)
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )


def renamed(variant):
    def change(unet):
        (unet / "diffusion_pytorch_model.safetensors").rename(
            unet / f"diffusion_pytorch_model.{variant}.safetensors"
        )

    return change


@pytest.mark.parametrize(
    "change",
    [sharded, renamed("fp16"), renamed("bf16"), renamed("non_ema")],
    ids=["shards", "fp16", "bf16", "non_ema"],
)
def test_folders_in_variants(tiny, tmp_path, change):
    shutil.copytree(tiny, tmp_path / "m")
    change(tmp_path / "m/unet")
    config = tmp_path / "m/unet/config.json"
    config.write_text(
        "\ufeff" + json.dumps({**json.loads(config.read_text()), "a_key_of_tomorrow": None}),
        "utf-8",
    )
    made = [
        create("x", CreateOptions(model=str(m), seed=3, steps=2))[0] for m in (tiny, tmp_path / "m")
    ]
    assert np.array_equal(*(np.asarray(m.picture) for m in made))
    assert len(made[1].settings["model_sha256"]) == 64


def test_an_index_that_leads_elsewhere(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    sharded(tmp_path / "m/unet")
    index = tmp_path / "m/unet/diffusion_pytorch_model.safetensors.index.json"
    for listed in ({"x": "../../secret.safetensors"}, {"x": "a.bin"}, {}, {"x": 3}):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(ModelError, match="no index of safetensors files"):
            load(str(tmp_path / "m"))


def test_the_marks_that_are_saved_are_those_of_transformers(tmp_path):
    tokenizer = CLIPTokenizer.original()
    tokenizer.save(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in ("<|STARTOFTEXT|> a cat", "<|startoftext|>", "<|ENDOFTEXT|>", "a cat<|endoftext|>"):
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert CLIPTokenizer.load(tmp_path).encode("<|STARTOFTEXT|>") == [tokenizer.begin]


def test_the_original_vocabulary():
    tokenizer = CLIPTokenizer.original()
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (49406, 49407, 49407)
    assert CLIPTokenizer.original(pad="!").pad == 0
    # Radford et al.'s own example, as openai/CLIP prints it.
    assert tokenizer.encode("a diagram") == [320, 22697]
    assert tokenizer.text(tokenizer.encode("Crème brûlée, 42 €")) == "crème brûlée , 4 2 €"
