"""The same seed gives the same picture: alone or in a batch, with one thread or two."""

import subprocess
import sys

import numpy as np
import torch

from sfumato.hub.load import load
from sfumato.runtime import Streams
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import Made, SamplerProgress, create, stream


def arrays(made):
    return [np.asarray(m.picture).astype(int) for m in made]


def test_batch_equals_singles(tiny):
    options = CreateOptions(model=str(tiny), seed=20, count=8, sampler="euler_ancestral", batch=8)
    together = arrays(create("a red apple", options))
    for k in range(8):
        alone = arrays(
            create(
                "a red apple",
                CreateOptions(model=str(tiny), seed=20 + k, sampler="euler_ancestral"),
            )
        )[0]
        assert abs(alone - together[k]).max() <= 1
    assert abs(together[0] - together[1]).max() > 5, "other seeds give other pictures"


def test_a_walk_leaves_its_callers_gradients_alone(tiny):
    steps = stream("a red apple", CreateOptions(model=str(tiny), seed=1))
    next(steps)
    assert not torch.is_inference_mode_enabled()
    assert not next(steps).step.x.requires_grad
    weight = torch.ones(3, requires_grad=True)
    weight.sum().backward()
    assert weight.grad is not None


def test_progress_counts_what_is_walked(tiny):
    """Four pictures of three tries each, two sampled at once: two batches a picture."""
    events = list(
        stream(
            ["a", "b"], CreateOptions(model=str(tiny), seed=1, count=2, best_of=3, batch=2, steps=2)
        )
    )
    moments = [e for e in events if isinstance(e, SamplerProgress)]
    assert [(m.done, m.step.index) for m in moments] == [
        (run, step) for run in range(8) for step in range(2)
    ]
    assert {m.total for m in moments} == {8}
    assert sum(isinstance(e, Made) for e in events) == 4


def test_noise_bits():
    many, one = Streams([1, 2, 3]), Streams([3])
    assert torch.equal(many.normal((3, 4, 8, 8))[2], one.normal((1, 4, 8, 8))[0])
    assert torch.equal(many.normal((3, 4, 8, 8))[2], one.normal((1, 4, 8, 8))[0])
    assert not torch.equal(Streams([1]).normal((1, 4)), Streams([2]).normal((1, 4)))


def test_one_thread_or_two(tiny, tmp_path):
    code = (
        "import sys, torch, numpy; torch.set_num_threads(int(sys.argv[1]));"
        "from sfumato import create, CreateOptions; from sfumato.runtime import Streams;"
        f"p = create('x', CreateOptions(model={str(tiny)!r}, seed=3))[0].picture;"
        "numpy.savez(sys.argv[2], p=numpy.asarray(p), n=Streams([3]).normal((1, 4, 8, 8)).numpy())"
    )
    found = []
    for threads in (1, 2):
        path = tmp_path / f"{threads}.npz"
        subprocess.run([sys.executable, "-c", code, str(threads), str(path)], check=True)
        found.append(np.load(path))
    assert np.array_equal(found[0]["n"], found[1]["n"])
    assert abs(found[0]["p"].astype(int) - found[1]["p"].astype(int)).max() <= 1


def test_cancel_is_to_stop_iterating(tiny):
    model = load(str(tiny))
    evaluations = []
    model.network.register_forward_hook(lambda *_: evaluations.append(1))
    events = stream("x", CreateOptions(seed=1, steps=50), model)
    first = next(events)
    assert (first.step.index, first.steps) == (0, 50)
    events.close()
    assert len(evaluations) <= 2, "the other 48 steps are not run"
    assert list(events) == []


def test_all_64_bits_of_a_seed_count():
    draws = {
        seed: Streams([seed]).normal((1, 64))
        for seed in (7, 8, 7 + 2**32, 7 + 2**33, 8 + 2**32, 7 + 5 * 2**32, 2**63 - 1)
    }
    assert len({tuple(v.flatten().tolist()) for v in draws.values()}) == len(draws)
    assert torch.equal(draws[7][0], torch.randn(64, generator=torch.Generator().manual_seed(7))), (
        "seeds below 2^32 keep theirs"
    )
    large = torch.stack([Streams([seed]).normal((1, 4096))[0] for seed in (7 + 2**32, 2**62)])
    assert (large.mean(dim=1).abs() < 0.06).all() and (large.std(dim=1) - 1).abs().max() < 0.05
