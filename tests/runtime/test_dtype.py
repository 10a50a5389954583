"""What arithmetic `auto` chooses, on CPUs that are not here."""

import numpy as np
import pytest
import torch

from sfumato import Autoencoder
from sfumato.errors import OptionError
from sfumato.hub.load import load
from sfumato.runtime import DTYPE_VARIABLE, choose_dtype, has_bfloat16
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.train.checkpoint import State
from sfumato.train.loop import train
from sfumato.train.muon import Muon
from sfumato.train.settings import TrainSettings

CPU = torch.device("cpu")


@pytest.fixture
def cpu(monkeypatch):
    """Pretends to be another CPU: the machine's name, and what it and oneDNN can do."""
    monkeypatch.delenv(DTYPE_VARIABLE, raising=False)

    def pretend(machine="x86_64", onednn=True, avx512_bf16=False, amx=False, arm_bf16=False):
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: onednn)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm_bf16, raising=False
        )

    return pretend


@pytest.mark.parametrize(
    ("given", "has"),
    [
        ({}, False),
        ({"avx512_bf16": True}, True),
        ({"amx": True}, True),
        ({"amx": True, "onednn": False}, False),
        ({"machine": "arm64", "onednn": False}, False),
        ({"machine": "aarch64"}, False),
        ({"machine": "aarch64", "arm_bf16": True}, True),
    ],
    ids=str,
)
def test_a_cpu_computes_in_what_it_has(cpu, given, has):
    cpu(**given)
    assert has_bfloat16(CPU) == has
    expected = torch.bfloat16 if has else torch.float32
    assert choose_dtype("auto", CPU) == expected
    assert choose_dtype("auto", CPU, exact=True) == torch.float32
    assert RestorationNetworks().dtype == expected


def test_the_variable_overrules_the_hardware_and_the_user_overrules_both(cpu, monkeypatch, tiny):
    cpu(avx512_bf16=True)
    monkeypatch.setenv(DTYPE_VARIABLE, "float32")
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    monkeypatch.setenv(DTYPE_VARIABLE, "bfloat16")
    assert load(str(tiny)).network.conv_in.weight.dtype == torch.bfloat16
    monkeypatch.setenv(DTYPE_VARIABLE, "float33")
    with pytest.raises(OptionError, match="unknown dtype"):
        choose_dtype("auto", CPU)


def test_muon_and_training_ask_the_hardware(cpu):
    layers = [torch.nn.Conv2d(64, 64, 3) for _ in range(4)]
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        cpu(amx=has)
        state = State.start(torch.nn.Sequential(*layers), TrainSettings(optimizer="muon"))
        (muon,) = (o for o in state.optimizers if isinstance(o, Muon))
        assert muon.dtype == dtype


class Seen:
    """A job that notes the dtype its layer computes in."""

    def __init__(self):
        self.module, self.weights, self.dtypes = torch.nn.Linear(4, 4), torch.ones(8), []

    def loss(self, rows, random):
        out = self.module(torch.ones(len(rows), 4))
        self.dtypes.append(out.dtype)
        # so small that its gradient would vanish in float16
        return out.float().square().mean() * 1e-6


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_training_computes_in_the_dtype_asked_for(cpu, dtype, expected):
    cpu()
    moved = {}
    for name in (dtype, "float32"):
        torch.manual_seed(0)
        job = Seen()
        before = job.module.weight.detach().clone()
        list(
            train(
                job,
                TrainSettings(steps=2, batch=8, dtype=name, weight_decay=0, ema_decay=0, warmup=1),
            )
        )
        moved[name] = job.module.weight.detach() - before
        assert set(job.dtypes) == ({expected} if name == dtype else {torch.float32})
    assert torch.allclose(moved[dtype], moved["float32"], atol=2e-4)
    assert moved["float32"].abs().min() > 1e-3


def test_estimators_take_a_dtype():
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    codes = {
        d: Autoencoder(2, layers=(16,), epochs=3, random_state=0, dtype=d).fit_transform(rows)
        for d in ("auto", "float32", "float16")
    }
    assert np.abs(codes["float16"] - codes["float32"]).max() < 0.1
    with pytest.raises(ValueError, match="dtype"):
        Autoencoder(2, dtype="int8").fit(rows)


def test_a_picture_is_made_again_in_the_dtype_of_then(run, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv(DTYPE_VARIABLE, "bfloat16")
    assert (
        run("create", "x", "--model", tiny, "--seed", 1, "--steps", 2, "--output", "a.png")[0] == 0
    )
    monkeypatch.delenv(DTYPE_VARIABLE)
    assert run("create", "--again", "a.png", "--output", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
