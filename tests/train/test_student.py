"""A student learns its teacher's trajectories, and ``create --fast`` samples with it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import make_tiny

from sfumato.errors import ModelError, OptionError
from sfumato.hub.load import load
from sfumato.hub.lora import FILE, read_lora
from sfumato.progress import result_of
from sfumato.runtime import derive_seed
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import SamplerProgress, create, stream
from sfumato.train.loop import TrainProgress
from sfumato.train.pack import pack
from sfumato.train.plan import Plan
from sfumato.train.student import StudentJob, train_student

GIVEN = {"steps": 6, "batch": 4, "learning_rate": 0.01, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def own(tmp_path):
    """Three pictures with captions."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (16, 16), name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} apple")
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(
        json.dumps({"student_steps": 2, "trajectories": 6, "rank": 2, "previews": ["a dog"]})
    )
    return path


def job_of(model, own, folder, **plan):
    pictures = result_of(pack(own, 16, folder, captions=True))
    job = StudentJob(model, pictures, Plan(trajectories=6, previews=[], **plan), folder, 0)
    list(job.prepare("k"))
    return job


def test_a_student_that_is_perfect_walks_as_its_teacher(tiny, own, tmp_path):
    """Targets lead from each recorded state to the next, and the loss of a network that gives them
    is 0."""
    job = job_of(load(tiny), own, tmp_path, student_steps=2)
    trajectories = torch.from_numpy(np.array(job.trajectories)).float()
    assert trajectories.shape == (6, 3, 4, 8, 8)
    states = {}

    class Perfect(torch.nn.Module):
        def forward(self, x, sigma, condition):
            return torch.stack([states[float(one)] for one in x.flatten(1).sum(1)])

        def weight(self, sigma):
            return torch.ones(len(sigma))

    for row in trajectories:
        for k in range(2):
            sigma, lower = float(job.sigmas[k]), float(job.sigmas[k + 1])
            target = (row[k + 1] - lower / sigma * row[k]) / (1 - lower / sigma)
            states[float(row[k].flatten().sum())] = target
            arrived = target + lower / sigma * (row[k] - target)  # a step of Euler
            assert torch.allclose(arrived, row[k + 1], atol=1e-5)
    job.denoiser = Perfect()
    loss = job.loss(torch.tensor([0, 3, 5, 5]), torch.Generator().manual_seed(0))
    assert float(loss) < 1e-10


def test_walks_are_those_of_create(tiny, own, tmp_path):
    """The recorded end is where ``create`` arrives from the same noise and text."""
    model = load(tiny)
    job = job_of(model, own, tmp_path, student_steps=4)
    text, seed = job.texts[2], derive_seed(0, 2)
    options = CreateOptions(seed=seed, style=None, best_of=1)
    events = [e for e in stream(text, options, model) if isinstance(e, SamplerProgress)]
    ends = torch.stack([event.step.x[0] for event in events])
    trajectory = torch.from_numpy(np.array(job.trajectories[2])).float()
    assert len(events) == 4
    assert torch.allclose(trajectory[1:], ends, atol=0.02), "float16 on disk"


def test_it_is_written_resumed_and_used(own, config, tmp_path):
    folder = make_tiny(tmp_path / "model")
    events = list(train_student(own, folder / "fast", str(folder), config, GIVEN))
    assert "--fast" in events[-1]
    assert all(change.down.shape[0] == 2 for change in read_lora(folder / "fast" / FILE).values())
    cut = train_student(own, tmp_path / "cut", str(folder), config, GIVEN)
    for event in cut:
        if isinstance(event, TrainProgress) and event.step == 3:
            cut.close()
            break
    list(train_student(own, tmp_path / "cut", str(folder), config, GIVEN))
    whole, again = ((path / FILE).read_bytes() for path in (folder / "fast", tmp_path / "cut"))
    assert whole == again
    options = CreateOptions(model=str(folder), seed=1, fast=True)
    made = create("a red apple", options)[0]
    slow = create("a red apple", CreateOptions(model=str(folder), seed=1))[0]
    assert (made.settings["steps"], made.settings["guidance_scale"]) == (2, 1.0)
    assert made.settings["sampler"] == "euler" and made.settings["fast"] is True
    assert "student" in made.settings["parts"] and "student" not in slow.settings["parts"]
    assert np.asarray(made.picture).tobytes() != np.asarray(slow.picture).tobytes()


def test_a_model_without_a_student_says_so(tiny):
    with pytest.raises(ModelError, match="train student"):
        create("a red apple", CreateOptions(model=str(tiny), fast=True))


def test_steps_that_do_not_part_the_teachers_are_refused(tiny, own, tmp_path):
    with pytest.raises(OptionError, match="4 steps are no multiple of the student's 3 steps"):
        job_of(load(tiny), own, tmp_path, student_steps=3)


def test_a_negative_prompt_needs_guidance(own, config, tmp_path):
    folder = make_tiny(tmp_path / "model")
    list(train_student(own, folder / "fast", str(folder), config, GIVEN))
    with pytest.raises(OptionError, match="guidance"):
        create("a dog", CreateOptions(model=str(folder), fast=True, negative_prompt="a cat"))


def test_a_student_trains_on_from_another(own, config, tmp_path):
    folder = make_tiny(tmp_path / "model")
    list(train_student(own, tmp_path / "first", str(folder), config, GIVEN))
    still = {**GIVEN, "learning_rate": 1e-9, "warmup": 0}
    list(train_student(own, tmp_path / "on", str(folder), config, still, tmp_path / "first"))
    first, on = (read_lora(tmp_path / name / FILE) for name in ("first", "on"))
    assert max(float(change.up.abs().max()) for change in first.values()) > 1e-5
    for name, change in first.items():
        torch.testing.assert_close(on[name].up, change.up, atol=1e-6, rtol=2e-3)
    config.write_text(config.read_text().replace('"rank": 2', '"rank": 3'))
    with pytest.raises(ModelError, match="has rank 3 here, but 2 in the file"):
        list(train_student(own, tmp_path / "x", str(folder), config, GIVEN, tmp_path / "first"))
