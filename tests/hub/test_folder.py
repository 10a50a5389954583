"""Model folders: what describes them, and what belongs to the weights that were loaded."""

import json
import shutil

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny

import sfumato
from sfumato.errors import ConfigError, ModelError
from sfumato.hub.catalog import restorer_folder
from sfumato.hub.config import SchedulerConfig
from sfumato.hub.describe import describe
from sfumato.hub.load import load
from sfumato.hub.lora import Change, is_lora, lora_file, save_lora
from sfumato.hub.save import CLASSES, SOLVER, save_scheduler, scheduler_class


def test_digests_belong_to_the_weights_that_were_loaded(tmp_path):
    """A model in memory keeps its digests after its files have changed."""
    folder = make_tiny(tmp_path / "model")
    model = load(folder)
    before = model.sha256, dict(model.parts)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(unet.read_bytes())
    content[-1] ^= 1
    unet.unlink()  # the loaded weights may still be mapped to the old file
    unet.write_bytes(content)
    (folder / "scheduler" / "notes.txt").write_text("other")
    assert (model.sha256, model.parts) == before
    again = load(folder)
    assert again.sha256 != before[0] and again.parts["scheduler"] != before[1]["scheduler"]
    assert again.parts["vae"] == before[1]["vae"]


@pytest.mark.parametrize("sampler", [*CLASSES, "dpmpp_2m", "dpmpp_2m_sde"])
def test_the_class_of_a_saved_scheduler_opens_as_its_sampler(sampler, tmp_path):
    config = SchedulerConfig(sampler=sampler)
    save_scheduler(config, tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == scheduler_class(config)
    assert SchedulerConfig.from_file(saved, "saved").sampler == sampler


def test_the_index_names_the_class_of_the_scheduler(tiny):
    index, config = (
        json.loads((tiny / name).read_text())
        for name in ("model_index.json", "scheduler/scheduler_config.json")
    )
    assert index["scheduler"] == ["diffusers", config["_class_name"]] == ["diffusers", SOLVER]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (SOLVER, "use_lu_lambdas", True),
        (SOLVER, "solver_type", "heun"),
        ("UniPCMultistepScheduler", "solver_type", "bh1"),
        ("UniPCMultistepScheduler", "predict_x0", False),
        ("UniPCMultistepScheduler", "disable_corrector", [0]),
        ("EulerDiscreteScheduler", "timestep_type", "continuous"),
        ("EulerDiscreteScheduler", "interpolation_type", "log_linear"),
    ],
)
def test_a_key_that_changes_the_trajectory_is_refused(kind, key, value):
    with pytest.raises(ConfigError, match=f"theirs: {key}.* supported"):
        SchedulerConfig.from_file({"_class_name": kind, key: value}, "theirs")


def test_an_unfinished_training_is_told(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    for open_ in (load, restorer_folder, lora_file, lambda path: describe(str(path))):
        with pytest.raises(ModelError, match="a training that is not finished: run the same"):
            open_(tmp_path)


def test_what_is_no_model_is_named(tmp_path):
    sfumato.PCA(2).fit(np.eye(5)).save(tmp_path / "pca")
    with pytest.raises(ModelError, match=r"pca is an estimator: .* sfumato.PCA.load"):
        load(tmp_path / "pca")
    with pytest.raises(ModelError, match="noise is a network of sfumato restore"):
        load("noise")


def test_a_folder_with_one_file_is_a_lora_under_any_name(tmp_path):
    layer = Change(torch.ones(2, 32), torch.ones(32, 2), 2.0)
    save_lora({"mid_block.attentions.0.proj_in": layer}, tmp_path / "mine" / "any.safetensors")
    assert is_lora(tmp_path / "mine") and describe(str(tmp_path / "mine"))["kind"] == "LoRA"
    shutil.copy(tmp_path / "mine" / "any.safetensors", tmp_path / "mine" / "other.safetensors")
    assert not is_lora(tmp_path / "mine") and not is_lora(tmp_path / "none")


def test_a_finished_part_in_the_wrong_place_is_named(tmp_path):
    """A finished training still holds its last checkpoint."""
    folders = {}
    for name, kind in (("ae", "AutoencoderKL"), ("rs", "Restorer"), ("lora", None)):
        folder = folders[name] = tmp_path / name
        folder.mkdir()
        (folder / "checkpoint.safetensors").write_bytes(b"x")
        if kind is None:
            (folder / "pytorch_lora_weights.safetensors").write_bytes(b"x")
        else:
            (folder / "config.json").write_text(json.dumps({"_class_name": kind}))
    for name, what in (("ae", "an autoencoder"), ("rs", "a restorer"), ("lora", "a LoRA")):
        with pytest.raises(ModelError, match=f"is {what}: sfumato"):
            load(folders[name])
    for name in ("ae", "lora"):
        with pytest.raises(ModelError, match="an autoencoder|a LoRA"):
            restorer_folder(folders[name])
    (tmp_path / "mm" / "matcher").mkdir(parents=True)
    (tmp_path / "mm" / "matcher" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="only the matcher of a model"):
        load(tmp_path / "mm")
