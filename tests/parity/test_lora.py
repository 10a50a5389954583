"""LoRAs under all names that are read, against diffusers and PEFT."""

import json
import re

import diffusers
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato import image
from sfumato.errors import ModelError
from sfumato.hub.load import load
from sfumato.hub.lora import FILE, Change, read_lora, save_lora
from sfumato.hub.names import unet_name
from sfumato.runtime import Streams
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create

pytestmark = pytest.mark.filterwarnings("ignore")
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


def changes(model, rank=2):
    """Random changes of a linear layer and a convolution."""
    random = torch.Generator().manual_seed(0)
    found = {}
    for name in (LINEAR, "up_blocks.1.attentions.0.proj_in", CONV):
        shape = model.network.get_submodule(name).weight.shape
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random)
        found[name] = Change(torch.randn(rank, *shape[1:], generator=random), up * 0.3, 2.0 * rank)
    return found


@pytest.fixture
def lora(tiny, tmp_path):
    save_lora(changes(load(tiny)), tmp_path / "mine" / FILE)
    return tmp_path / "mine"


def weights_of(model):
    return {k: v.clone() for k, v in model.network.state_dict().items()}


def test_the_same_picture_as_diffusers(tiny, lora):
    options = CreateOptions(model=str(tiny), seed=5, steps=4, guidance_scale=3.0)
    plain = create("a red apple", options)[0].picture
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tiny), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(lora), adapter_name="mine")
    for scale in (1.0, 0.4):
        pipe.set_adapters("mine", scale)
        ours = create("a red apple", options.model_copy(update={"loras": (f"{lora}:{scale}",)}))[
            0
        ].picture
        noise = Streams([5]).normal((1, 4, 8, 8))
        theirs = pipe(
            "a red apple",
            num_inference_steps=4,
            guidance_scale=3.0,
            latents=noise,
            output_type="np",
        ).images
        want = image.to_bytes(torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1).int()
        assert (image.to_bytes(image.to_tensor(ours)).int() - want).abs().max() <= 1
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(plain)).max() > 8


def test_other_names_give_the_same_weights(tiny, lora, tmp_path):
    want = weights_of(load(tiny, loras=[str(lora)]))
    config = load(tiny).network.config
    stored = load_file(lora / FILE)

    def written(spell, metadata=None, **more):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({spell(k): v for k, v in stored.items()} | more, path, metadata)
        return weights_of(load(tiny, loras=[str(path)]))

    def old(name):
        return name.replace("lora_A", "lora.down").replace("lora_B", "lora.up")

    def kohya(name):
        layer, part = re.fullmatch(r"unet\.(.+)\.lora_(A|B)\.weight", name).groups()
        return f"lora_unet_{layer.replace('.', '_')}.lora_{'down' if part == 'A' else 'up'}.weight"

    def original(name):
        layer, part = re.fullmatch(r"unet\.(.+)\.lora_(A|B)\.weight", name).groups()
        theirs = unet_name(f"{layer}.weight", config).removesuffix(".weight").replace(".", "_")
        return f"lora_unet_{theirs}.lora_{'down' if part == 'A' else 'up'}.weight"

    for spell in (old, kohya, original):
        found = written(spell)
        assert all(torch.equal(found[k], want[k]) for k in want)
    # an alpha of half the rank adds half as much
    half = {kohya(k).split(".")[0] + ".alpha": torch.tensor(1.0) for k in stored}
    base, found = weights_of(load(tiny)), written(kohya, **half)
    noted = written(
        lambda k: k, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.r": 2})}
    )
    for k in want:
        assert torch.allclose(found[k], (base[k] + want[k]) / 2, atol=1e-6)
        assert torch.equal(found[k], noted[k])


@pytest.mark.parametrize(
    "noted",
    [
        {"unet.use_rslora": True},
        {"unet.lora_alpha": 3, "unet.use_rslora": True},
        {"unet.lora_alpha": 3, "unet.alpha_pattern": {"to_k": 5}},
        {"unet.lora_alpha": 3, "unet.alpha_pattern": {r".*\.attn2\.to_k": 5}},
        {"unet.lora_alpha": 3, "unet.alpha_pattern": {r"^down_blocks\.0.*to_k": 5}},
    ],
)
def test_pefts_settings_scale_as_in_diffusers(tiny, lora, tmp_path, noted):
    """One step of the U-Net, with a rank of 2."""
    settings = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_k"]} | noted
    weights = {k: v for k, v in load_file(lora / FILE).items() if "to_k" in k}
    (tmp_path / "noted").mkdir()
    notes = {"lora_adapter_metadata": json.dumps(settings)}
    save_file(weights, tmp_path / "noted" / FILE, notes)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tiny), safety_checker=None)
    pipe.load_lora_weights(str(tmp_path / "noted"))
    pipe.fuse_lora()
    theirs = pipe.unet.get_submodule(LINEAR)
    want = getattr(theirs, "base_layer", theirs).weight
    ours = load(tiny, loras=[str(tmp_path / "noted")]).network.get_submodule(LINEAR).weight
    assert torch.allclose(ours, want, atol=1e-5)


def test_pefts_own_folder(tiny, tmp_path):
    unet = diffusers.UNet2DConditionModel.from_pretrained(str(tiny), subfolder="unet")
    how = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_k"], init_lora_weights=False)
    wrapped = peft.get_peft_model(unet, how)
    wrapped.save_pretrained(tmp_path / "peft")
    want = wrapped.merge_and_unload().get_submodule(LINEAR).weight
    ours = load(tiny, loras=[str(tmp_path / "peft")]).network.get_submodule(LINEAR).weight
    assert torch.allclose(ours, want, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        f"text_encoder.{TEXT}.lora_A",
        f"text_encoder.{TEXT}.lora_linear_layer.down",
        f"text_encoder.{TEXT.removeprefix('text_model.')}.lora_linear_layer.down",
        f"base_model.model.{TEXT}.lora_A",
        f"lora_te_{TEXT.replace('.', '_')}.lora_down",
    ],
)
def test_the_text_encoder_is_changed_too(tiny, tmp_path, name):
    other = name.replace("lora_A", "lora_B").replace("down", "up")
    path = tmp_path / "text.safetensors"
    save_file({f"{name}.weight": torch.ones(1, 32), f"{other}.weight": torch.ones(32, 1)}, path)
    before, after = load(tiny), load(tiny, loras=[f"{path}:0.5"])
    was, now = (m.text.clip.get_submodule(TEXT).weight for m in (before, after))
    assert torch.allclose(now - was, torch.full((32, 32), 0.5), atol=1e-6)


def test_several_are_added_and_told(tiny, lora):
    model = load(tiny, loras=[f"{lora}:0.5", f"{lora}:0.5"])
    want = weights_of(load(tiny, loras=[str(lora)]))
    assert all(torch.allclose(v, want[k], atol=1e-5) for k, v in weights_of(model).items())
    assert len(model.parts[f"lora {lora}:0.5"]) == 16


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"unet.nowhere.lora_A.weight": (2, 4), "unet.nowhere.lora_B.weight": (4, 2)}, "no layer"),
        (
            {f"unet.{LINEAR}.lora_A.weight": (2, 7), f"unet.{LINEAR}.lora_B.weight": (5, 2)},
            "inputs",
        ),
        ({f"unet.{LINEAR}.lora_A.weight": (2, 32)}, "A and B"),
        ({f"unet.{LINEAR}.hada_w1_a": (2, 32)}, "no LoRA of a known format"),
        ({f"unet.{LINEAR}.weight": (2, 32)}, "no LoRA of a known format"),
        ({}, "no weights"),
        ({f"unet.{LINEAR}.lora_A.weight": (), f"unet.{LINEAR}.lora_B.weight": ()}, "neither two"),
        (
            {f"unet.{LINEAR}.lora_A.weight": (0, 32), f"unet.{LINEAR}.lora_B.weight": (32, 0)},
            "rank",
        ),
        (
            {
                f"unet.{LINEAR}.lora_A.weight": (2, 32),
                f"unet.{LINEAR}.lora_B.weight": (32, 2),
                f"unet.{LINEAR}.alpha": (3,),
            },
            "alpha",
        ),
    ],
)
def test_what_does_not_fit_is_told(tiny, tmp_path, weights, said):
    path = tmp_path / "odd.safetensors"
    save_file({k: torch.ones(shape) for k, shape in weights.items()}, path)
    with pytest.raises(ModelError, match=said):
        load(tiny, loras=[str(path)])


@pytest.mark.parametrize("noted", ["[1, 2]", "3", "{", '{"unet.lora_alpha": "x"}'])
def test_notes_that_say_nothing_are_passed_over(tiny, lora, tmp_path, noted):
    path = tmp_path / "noted.safetensors"
    save_file(load_file(lora / FILE), path, {"lora_adapter_metadata": noted})
    want, found = (weights_of(load(tiny, loras=[str(p)])) for p in (lora, path))
    assert all(torch.equal(found[k], want[k]) for k in want)


@pytest.mark.parametrize("pattern", ["(.*)*(.*)*x", ".*.*.*.*x", "*x"])
def test_an_alpha_pattern_that_is_slow_or_wrong_is_refused(lora, tmp_path, pattern):
    noted = {"unet.lora_alpha": 3, "unet.alpha_pattern": {pattern: 5}}
    path = tmp_path / "noted.safetensors"
    save_file(load_file(lora / FILE), path, {"lora_adapter_metadata": json.dumps(noted)})
    with pytest.raises(ModelError, match="alpha_pattern"):
        read_lora(path)


def test_hostile_files_are_told(tiny, lora, tmp_path):
    whole = (lora / FILE).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    nan = tmp_path / "nan.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(lora / FILE).items()}, nan)
    (tmp_path / "bad.ckpt").write_bytes(b"x")
    for path, said in (
        (cut, "may be truncated"),
        (nan, "not finite"),
        (tmp_path / "bad.ckpt", "pickle"),
        (tmp_path / "none", "there is no LoRA"),
        (tmp_path / "mine" / "x", "there is no LoRA"),
    ):
        with pytest.raises(ModelError, match=said):
            load(tiny, loras=[str(path)])
