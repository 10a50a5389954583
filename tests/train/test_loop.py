"""The training loop on a device that works ahead of the program, and data that stay on it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import make_tiny

from sfumato.errors import TrainingError
from sfumato.hub.load import load
from sfumato.progress import result_of
from sfumato.train import loop
from sfumato.train.latents import Latents
from sfumato.train.pack import pack
from sfumato.train.settings import TrainSettings


class Slope:
    """Fits one weight to 3; the loss is infinite at step `bad`."""

    def __init__(self, bad=None):
        torch.manual_seed(0)
        self.module, self.weights = torch.nn.Linear(1, 1, bias=False), torch.ones(4)
        self.bad, self.steps = bad, 0

    def loss(self, rows, random):
        self.steps += 1
        error = (self.module(torch.ones(len(rows), 1)) - 3).square().mean()
        return error * (float("inf") if self.steps == self.bad else 1.0)

    def preview(self):
        pass


def settings(**given):
    return TrainSettings(batch=2, warmup=0, device="cpu", **given)


@pytest.fixture
def rarely(monkeypatch):
    """The loss is read every fourth step, as on a GPU."""
    watch = loop._Watch
    monkeypatch.setattr(loop, "_Watch", lambda settings, every: watch(settings, 4))


def test_looking_rarely_changes_no_weight(request):
    always = Slope()
    losses = [event.loss for event in loop.train(always, settings(steps=10))]
    request.getfixturevalue("rarely")
    job = Slope()
    seen = [event.loss for event in loop.train(job, settings(steps=10))]
    assert torch.equal(job.module.weight, always.module.weight)
    assert seen[0] == losses[0], "the first step is looked at"
    assert len(seen) == 10 and not np.isnan(seen).any()


def unchecked(job, settings, step, device, places):
    """The gradient as a GPU leaves it: nothing is read."""
    loss = job.loss(torch.zeros(settings.batch), None)
    loss.backward()
    return loss.detach(), job.module.weight.grad.norm()


def test_a_gradient_that_is_not_finite_is_seen_before_a_checkpoint(rarely, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "_gradient", unchecked)
    with pytest.raises(TrainingError, match="before step 8: the gradient is not finite"):
        list(loop.train(Slope(bad=6), settings(steps=30), tmp_path / "run", {}))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("bad", [6, None])
def test_a_run_that_is_stopped_saves_what_is_finite(rarely, monkeypatch, tmp_path, bad):
    monkeypatch.setattr(loop, "_gradient", unchecked)
    events = loop.train(Slope(bad=bad), settings(steps=30), tmp_path, {})
    while next(events).step < 7:
        pass
    events.close()
    assert (tmp_path / "checkpoint.safetensors").exists() == (bad is None)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    plain, compiled = Slope(), Slope()
    list(loop.train(plain, settings(steps=3)))
    list(loop.train(compiled, settings(steps=3, compile=True), tmp_path, {}))
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()
    torch.testing.assert_close(compiled.module.weight, plain.module.weight)


def test_tables_on_a_device_hold_the_same(tmp_path):
    """Within the room there is; here the device is the CPU."""
    (tmp_path / "in" / "dog").mkdir(parents=True)
    for k in range(3):
        Image.new("RGB", (16, 16), (80 * k, 10, 200)).save(tmp_path / "in" / "dog" / f"{k}.png")
    model = load(str(make_tiny(tmp_path / "m")))
    pictures = result_of(pack(tmp_path / "in", 16, tmp_path / "c", captions=True))
    data = Latents(pictures, model.space, model.text, tmp_path / "c")
    list(data.prepare("key", states=True))
    rows = torch.tensor([2, 0, 2])
    before = data.latents(rows), data.states([1, 0]), data.pixels(rows)
    room = data.tables["latents"].nbytes + data.tables["states"].nbytes
    data.keep_on(torch.device("cpu"), "latents", "states", "pixels", room=room)
    kept = {name for name, table in data.tables.items() if isinstance(table, torch.Tensor)}
    assert kept == {"latents", "states"}, "there was no room for the pixels"
    after = data.latents(rows), data.states([1, 0]), data.pixels(rows)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
