"""Runs are resumed bit for bit, also after kill -9; a NaN is named by step and layer."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.train.common import SETTINGS, Kernels, Line, write_plans
from torch import nn

from sfumato.cli.train import _train
from sfumato.errors import TrainingError
from sfumato.hub.files import CHECKPOINT
from sfumato.hub.load import load
from sfumato.progress import result_of
from sfumato.train import loop
from sfumato.train.autoencoder import train_autoencoder
from sfumato.train.checkpoint import State
from sfumato.train.latents import Latents, cached
from sfumato.train.loop import TrainProgress, train
from sfumato.train.pack import pack
from sfumato.types import Progress


def test_work_before_the_training_moves_the_bar(monkeypatch, tmp_path):
    shown = []

    class Bar(contextlib.nullcontext):
        def __enter__(self):
            return self

        def update(self, what, done, total, note=""):
            shown.append((what, done, total))

    def events():
        yield Progress("reading pictures", 1, 2)
        yield from train(Line(), SETTINGS, tmp_path)

    monkeypatch.setattr("sfumato.cli.train.bar", Bar)
    _train(events(), tmp_path)
    assert shown[0] == ("reading pictures", 1, 2)
    assert shown[-1] == ("training", SETTINGS.steps, SETTINGS.steps)


@pytest.mark.parametrize("kind", [Line, Kernels])
@pytest.mark.parametrize(
    ("optimizer", "ema_decay"), [("adamw", 0.999), ("muon", 0.999), ("adamw", 0)]
)
def test_training_learns_and_stopping_resumes_bitwise(tmp_path, optimizer, ema_decay, kind):
    whole, halves = kind(), kind()
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "ema_decay": ema_decay})
    losses = [p.loss for p in train(whole, settings, tmp_path / "a")]
    assert losses[-1] < losses[0] * 0.75  # a moving average: it lags
    for progress in train(halves, settings, tmp_path / "b"):
        if progress.step == 23:
            break
    again = kind()
    resumed = [p.step for p in train(again, settings, tmp_path / "b")]
    assert resumed[0] == 24
    for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ctrl_c_waits_for_the_end_of_a_step(tmp_path, capsys, monkeypatch):
    """Also in the middle of an optimizer step, after which the weights would be of two steps."""
    steps = []

    def interrupted(state, settings, step):
        applied(state, settings, step)
        steps.append(step)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    applied = loop._apply
    monkeypatch.setattr(loop, "_apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(train(Line(), SETTINGS, tmp_path), tmp_path)
    assert "stopped after step 7; the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(loop, "_apply", applied)
    assert next(iter(train(Line(), SETTINGS, tmp_path))).step == 8
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_last_step_stops_nothing(tmp_path, capsys):
    """The model is still written after it."""

    def events():
        for progress in train(Line(), SETTINGS, tmp_path):
            if progress.step == progress.steps:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            yield progress
        yield "written"

    _train(events(), tmp_path)
    told = capsys.readouterr()
    assert "written" in told.err and "stopped" not in told.err and str(tmp_path) in told.out


def test_a_finished_training_says_so(tmp_path, capsys):
    for said in (False, True):
        _train(train(Line(), SETTINGS, tmp_path), tmp_path)
        assert ("there is nothing left to do" in capsys.readouterr().err) == said


def test_nothing_to_draw_is_one_sentence():
    job = Line()
    job.weights = torch.zeros(5)
    with pytest.raises(TrainingError, match="all sampling weights are 0"):
        next(train(job, SETTINGS))


def test_other_settings_are_refused(tmp_path):
    list(train(Line(), SETTINGS, tmp_path))
    with pytest.raises(TrainingError, match="other settings"):
        list(train(Line(), SETTINGS.model_copy(update={"learning_rate": 1.0}), tmp_path))


def test_another_run_is_refused(tmp_path):
    own = {"corruption": "noise:25", "data": "abc"}
    list(train(Line(), SETTINGS, tmp_path, own))
    for about, sentence in (
        ({"corruption": "gray", "data": "abc"}, "its corruption was noise:25, now it is gray"),
        ({"data": "x"}, "its data were different"),
        ({"data": "abc"}, "its corruption was noise:25, now it is None"),
        ({**own, "teacher": "x"}, "its teacher was None, now it is x"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            list(train(Line(), SETTINGS, tmp_path, about))
    wider = Line()
    wider.module = nn.Sequential(
        nn.Linear(4, 33), nn.Tanh(), nn.Linear(33, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    with pytest.raises(TrainingError, match="of shape"):
        list(train(wider, SETTINGS, tmp_path, own))


def test_an_interrupt_within_a_step_leaves_no_half_step_behind(tmp_path, monkeypatch):
    whole = Line()
    list(train(whole, SETTINGS, tmp_path / "a"))
    update, calls = State.update_average, []

    def interrupted(self, decay):
        calls.append(1)
        if len(calls) == 23:
            raise KeyboardInterrupt
        update(self, decay)

    monkeypatch.setattr(State, "update_average", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(train(Line(), SETTINGS, tmp_path / "b"))
    again = Line()
    list(train(again, SETTINGS, tmp_path / "b"))
    for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupt_while_a_step_is_computed_loses_none_before_it(tmp_path):
    class Stopped(Line):
        def loss(self, rows, random):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 13:
                raise KeyboardInterrupt
            return super().loss(rows, random)

    with pytest.raises(KeyboardInterrupt):
        list(train(Stopped(), SETTINGS, tmp_path))
    with safe_open(tmp_path / CHECKPOINT, "pt") as kept:
        assert kept.metadata()["step"] == "12"


def test_a_cache_is_continued_after_an_interruption(tmp_path):
    asked = []

    def rows(start, end):
        asked.append((start, end))
        return torch.arange(start, end)[:, None].float()

    path = tmp_path / "cache" / "rows.npy"
    run = cached(path, "a", (7, 1), rows, batch=2)
    assert [next(run), next(run)] == [2, 4]
    run.close()
    assert list(cached(path, "a", (7, 1), rows, batch=2)) == [6, 7]
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert np.load(path).ravel().tolist() == list(range(7))
    assert list(cached(path, "a", (7, 1), rows)) == []
    earlier = np.load(path, mmap_mode="r")
    assert list(cached(path, "b", (7, 1), lambda start, end: -rows(start, end))) == [7]
    assert np.load(path).ravel().tolist() == [-k for k in range(7)], "another key: all anew"
    assert earlier.ravel().tolist() == list(range(7)), "a run that reads the old rows goes on"
    (tmp_path / "cache" / "rows.json").write_text('{"key": "b"}')  # as an older version wrote it
    assert list(cached(path, "b", (7, 1), rows)) == []


def test_a_cache_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        next(cached(tmp_path / "rows.npy", "a", (7, 1), lambda start, end: torch.zeros(7, 1)))
    assert list(tmp_path.iterdir()) == []


def test_caches_are_not_taken_for_other_data(tmp_path, tiny):
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (16, 16), (40 * k + 100 * (name == "dog"),) * 3).save(
                tmp_path / "in" / name / f"{name}{k}.png"
            )

    def found():
        pictures = result_of(pack(tmp_path / "in", 16, tmp_path / "cache", captions=True))
        model = load(str(tiny))
        latents = Latents(pictures, model.space, model.text, tmp_path / "cache")
        list(latents.prepare("key", states=True, ends=True))
        ends = {t: model.text.pooled([t])[0] for t in latents.texts}
        assert all(
            torch.allclose(latents.pooled([k])[0], ends[t], atol=0.01)
            for k, t in enumerate(latents.texts)
        )
        fresh = torch.cat(
            [model.space.moments(latents.pixels(torch.tensor([k])))[0] for k in range(5)]
        )
        assert torch.allclose(
            latents.latents(torch.arange(5)), fresh * model.space.config.scaling_factor, atol=0.01
        )
        return sorted(
            (int(p[0, 0, 0]), c[0]) for p, c in zip(pictures.pixels, pictures.captions, strict=True)
        )

    assert found() == [(0, "cat"), (40, "cat"), (80, "cat"), (100, "dog"), (140, "dog")]
    (tmp_path / "in/cat/cat0.png").rename(tmp_path / "in/dog/cat0.png")
    assert found() == [(0, "dog"), (40, "cat"), (80, "cat"), (100, "dog"), (140, "dog")]
    (tmp_path / "in/cat").rename(tmp_path / "in/kitten")
    assert found() == [(0, "dog"), (40, "kitten"), (80, "kitten"), (100, "dog"), (140, "dog")]


@pytest.mark.parametrize("damage", ["truncated", "not JSON", "a list", "empty"])
def test_a_damaged_cache_is_computed_again(tmp_path, damage):
    def rows(start, end):
        return torch.arange(start, end).float()[:, None].expand(-1, 40)

    path = tmp_path / "latents.npy"
    list(cached(path, "key", (6, 40), rows))
    if damage == "truncated":
        os.truncate(path, 100)
    else:
        path.with_suffix(".json").write_text(
            {"not JSON": "{", "a list": "[1]", "empty": ""}[damage]
        )
    assert list(cached(path, "key", (6, 40), rows)) != []
    assert np.load(path)[:, 0].tolist() == list(range(6))


def test_nan_names_step_and_layer(tmp_path):
    job = Line()
    job.spoil_at = 9
    with pytest.raises(TrainingError, match=r"step 10: the output of layer 0 is not finite"):
        list(train(job, SETTINGS, tmp_path))
    with safe_open(tmp_path / CHECKPOINT, "pt") as kept:
        assert kept.metadata()["step"] == "7", "what failed is not written over what was whole"


def test_kill_9_and_resume_is_bitwise(folder, tmp_path):
    """Killed at a random step and resumed, the weights equal those of a run that nobody augment."""
    write_plans(tmp_path)

    def start(output):
        words = [
            "train",
            "autoencoder",
            str(folder),
            "--output",
            str(output),
            "--config",
            str(tmp_path / "vae.json"),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "sfumato", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    for attempt in range(3):
        killed = start(tmp_path / "killed")
        checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while killed.poll() is None and not (
            checkpoint.exists() and checkpoint.stat().st_mtime_ns > before
        ):
            time.sleep(0.01)
        time.sleep(0.05 * np.random.default_rng().random())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if attempt == 0:
            assert not (tmp_path / "killed" / "config.json").exists(), (
                "the first kill came before the end"
            )
    assert start(tmp_path / "killed").wait() == 0
    one, other = (
        load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "killed")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_slow_run_saves_by_the_clock_and_says_where_it_goes_on(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sfumato.train.loop.SAVE_SECONDS", 0.0)
    write_plans(tmp_path)
    events = train_autoencoder(folder, tmp_path / "o", tmp_path / "vae.json", {"steps": 5})
    steps = [event.step for event in (next(e for e in events if isinstance(e, TrainProgress)),)]
    assert steps == [1]
    with safe_open(tmp_path / "o" / CHECKPOINT, "pt") as f:
        assert f.metadata()["step"] == "1"
    events.close()
    _train(
        train_autoencoder(folder, tmp_path / "o", tmp_path / "vae.json", {"steps": 5}),
        tmp_path / "o",
    )
    assert "the run resumes after step 1 of 5" in capsys.readouterr().err


def test_the_message_names_what_differs(tmp_path):
    network = {"kind": "x" * 90, "widths": [32, 64]}
    list(train(Line(), SETTINGS, tmp_path, {"network": network}))
    with pytest.raises(TrainingError, match=r"its network.widths was \[32, 64\], now it is \[16\]"):
        list(train(Line(), SETTINGS, tmp_path, {"network": {**network, "widths": [16]}}))
    other = SETTINGS.model_copy(update={"seed": SETTINGS.seed + 5})
    with pytest.raises(TrainingError, match="its seed was .*, now it is"):
        list(train(Line(), other, tmp_path, {"network": network}))


def test_scratch_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".sfumato-0123.safetensors").write_bytes(b"half of a checkpoint")
    list(train(Line(), SETTINGS, tmp_path))
    assert not list(tmp_path.glob(".sfumato-*"))


def test_weights_whose_sum_overflows_are_refused(tmp_path):
    job = Line()
    job.weights = torch.full((4,), 1e308, dtype=torch.float64)
    with pytest.raises(TrainingError, match="or their sum is too large"):
        list(train(job, SETTINGS))
