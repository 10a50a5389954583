"""A LoRA that is trained here: it changes what it was shown, is resumed, and is used by name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfumato.errors import ModelError, OptionError
from sfumato.hub.describe import describe
from sfumato.hub.load import load
from sfumato.hub.lora import FILE, Change, merge, read_lora
from sfumato.progress import result_of
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.train import lora as lora_module
from sfumato.train.latents import Latents
from sfumato.train.loop import TrainProgress
from sfumato.train.lora import LoraJob, changes_of, other_prompts, train_lora
from sfumato.train.pack import pack
from sfumato.train.plan import Plan
from sfumato.types import Condition

GIVEN = {"steps": 6, "batch": 2, "learning_rate": 0.01, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Three pictures with captions; few pictures of other prompts are kept."""
    monkeypatch.setattr(lora_module, "KEPT", 4)
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (16, 16), name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} apple")
    return folder


def trained(own, output, tiny, **given):
    return list(train_lora(own, output, None, None, None, {**GIVEN, **given}, str(tiny)))


def test_it_is_written_used_and_says_how(own, tiny, tmp_path):
    events = trained(own, tmp_path / "mine", tiny)
    assert "--lora" in events[-1]
    changes = read_lora(tmp_path / "mine" / FILE)
    assert all(change.down.shape[0] == 8 for change in changes.values())
    assert any(change.down.ndim == 4 for change in changes.values()), "convolutions, too"
    for name in (tmp_path / "mine", tmp_path / "mine" / FILE):
        told = describe(str(name))
        assert (told["kind"], told["rank"], told["layers"]) == ("LoRA", 8, len(changes))
    options = CreateOptions(model=str(tiny), seed=1, steps=2)
    before = create("a red apple", options)[0]
    after = create("a red apple", options.model_copy(update={"loras": (str(tmp_path / "mine"),)}))
    assert np.asarray(before.picture).tobytes() != np.asarray(after[0].picture).tobytes()
    assert after[0].settings["loras"] == [str(tmp_path / "mine")]
    assert (tmp_path / "mine" / "previews" / "0000006.png").exists()


def test_without_previews_it_says_how_with_a_caption(own, tiny, tmp_path):
    (tmp_path / "plan.json").write_text('{"previews": []}')
    given = {**GIVEN, "steps": 1}
    *_, last = train_lora(own, tmp_path / "o", None, None, tmp_path / "plan.json", given, str(tiny))
    assert last.startswith("use it: sfumato create ") and "--lora" in last


def test_a_stopped_run_goes_on_bit_for_bit(own, tiny, tmp_path):
    trained(own, tmp_path / "whole", tiny)
    events = train_lora(own, tmp_path / "cut", None, None, None, GIVEN, str(tiny))
    for event in events:
        if isinstance(event, TrainProgress) and event.step == 3:
            events.close()
            break
    trained(own, tmp_path / "cut", tiny)
    whole, cut = (read_lora(tmp_path / name / FILE) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k].up, cut[k].up) for k in whole)


def test_a_loaded_model_gets_no_lora_or_student_by_options(tiny):
    model = load(tiny)
    for asked, said in (
        ({"loras": ("mine/",)}, "without the LoRA mine/"),
        ({"fast": True}, "fast"),
    ):
        with pytest.raises(OptionError, match=said):
            create("a", CreateOptions(model=str(tiny), **asked), model)


def test_a_lora_of_a_loaded_model_may_be_written_in_another_way(own, tiny, tmp_path):
    trained(own, tmp_path / "mine", tiny)
    model = load(tiny, loras=[tmp_path / "mine"])
    options = {"model": str(tiny), "steps": 1, "loras": (f"{tmp_path}/mine/:1",)}
    assert create("a", options, model)


def test_without_its_changes_it_is_the_model_itself(own, tiny, tmp_path):
    model = load(tiny)
    found = Latents(
        result_of(pack(own, 16, tmp_path / "c", captions=True)), model.space, model.text, tmp_path
    )
    list(found.prepare("k", states=True))
    job = LoraJob(model, found, Plan(previews=[]))
    x, sigma = torch.randn(1, 4, 8, 8), torch.ones(1)
    condition = Condition(model.text(["a red apple"], (16, 16))[0].tokens)
    want = model.denoiser(x, sigma, condition)
    assert torch.allclose(job.denoiser(x, sigma, condition), want, atol=1e-6)
    for change in job.changes:
        torch.nn.init.normal_(change.up)
    assert not torch.allclose(job.denoiser(x, sigma, condition), want, atol=1e-2)
    with job.unchanged():
        assert torch.allclose(job.denoiser(x, sigma, condition), want, atol=1e-6)
    assert len(changes_of(job.module)) == len(job.changes)
    trainable = {n for n, p in job.module.named_parameters() if p.requires_grad}
    assert trainable and all("parametrizations.weight.0" in n for n in trainable)


def test_other_prompts_are_words_with_styles(tiny):
    said = other_prompts(load("icons"), 20, seed=3)
    assert len(set(said)) > 15 and all(", " in text for text in said)
    assert other_prompts(load(tiny), 2, seed=3) == other_prompts(load(tiny), 2, seed=3)


def test_parts_of_the_model_are_refused(own, tiny, tmp_path):
    with pytest.raises(OptionError, match="leave out these options"):
        list(train_lora(own, tmp_path / "o", None, tmp_path, None, GIVEN, str(tiny)))
    assert not (tmp_path / "o").exists()


def test_the_command_trains_a_lora_unless_all_weights_are_asked_for(own, tiny, tmp_path, run):
    words = ("--start", tiny, "--steps", 1, "--batch", 2, "--device", "cpu")
    code, _, err = run("train", "diffusion", own, "--output", tmp_path / "l", *words)
    assert code == 0, err
    assert (tmp_path / "l" / FILE).exists() and not (tmp_path / "l" / "unet").exists()
    code, _, err = run("train", "diffusion", own, "--output", tmp_path / "f", *words, "--full")
    assert code == 0, err
    assert (tmp_path / "f" / "unet").exists() and not (tmp_path / "f" / FILE).exists()
    code, out, err = run(
        "create", "a red apple", "--model", tiny, "--lora", f"{tmp_path / 'l'}:0.5", "--steps", 2,
        "--seed", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    made = json.loads(out)
    assert made["settings"]["loras"] == [f"{tmp_path / 'l'}:0.5"]
    code, _, err = run("create", "--again", made["path"], "--output", "again.png")
    assert code == 0, err
    (tmp_path / "l" / FILE).write_bytes((tmp_path / "l" / FILE).read_bytes()[:-8])
    code, _, err = run("create", "--again", made["path"], "--output", "no.png")
    assert code == 2 and "may be truncated" in err


def test_muon_is_refused_for_a_lora(tmp_path):
    """The updates of a LoRA have few rows, so Muon would have no matrix to work on."""
    from sfumato.errors import ConfigError
    from sfumato.train.plan import read_plan

    (tmp_path / "data").mkdir()
    for task in ("lora", "student"):
        with pytest.raises(ConfigError, match="Muon is for whole matrices"):
            read_plan(task, tmp_path / "data", tmp_path / "o", None, {"optimizer": "muon"})


@pytest.mark.parametrize(("down", "up"), [((1, 25_000), (25_000, 1)), ((3, 8), (8, 4))])
def test_a_lora_of_other_shapes_is_refused_before_it_is_multiplied(tiny, tmp_path, down, up):
    model = load(tiny)
    name, layer = next(
        (n, m) for n, m in model.network.named_modules() if isinstance(m, torch.nn.Linear)
    )
    if down[1] == 8:  # as many values as the weight, in another shape, or two ranks
        down, up = (3, layer.weight.shape[1]), (layer.weight.shape[0], 4)
    weights = {
        f"unet.{name}.lora_A.weight": torch.zeros(down),
        f"unet.{name}.lora_B.weight": torch.zeros(up),
    }
    save_file(weights, tmp_path / FILE)
    with pytest.raises(ModelError, match="is for another model"):
        merge(model.network, [model.text], tmp_path / FILE)


def test_a_lora_with_as_many_values_in_another_shape_is_refused():
    weight = torch.zeros(6, 24)
    assert Change(torch.zeros(2, 24), torch.zeros(6, 2), 2.0).fits(weight)
    assert not Change(torch.zeros(2, 12), torch.zeros(12, 2), 2.0).fits(weight)
