"""The six rows of the preconditioning table are one function in six guises."""

import pytest
import torch
from torch import nn

from sfumato.corruption.mask import Mask
from sfumato.denoiser.consistency import consistent
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.precondition import PRECONDITIONS, Times
from sfumato.errors import OptionError
from sfumato.sampler.schedule import at_times
from sfumato.types import Condition

SIGMAS = torch.tensor([0.03, 0.5, 3.0, 14.0], dtype=torch.float64)


class Perfect(nn.Module):
    """A network that knows the clean picture and answers in the terms of its row."""

    def __init__(self, x0, noise, kind):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))
        s = SIGMAS[:, None, None, None]
        scale = (1 + s**2).rsqrt()
        self.answer = {
            "direct": x0,
            "eps": noise,
            "v": scale * noise - s * scale * x0,
            "x0": x0,
            "edm": (x0 - (x0 + s * noise) / (1 + s**2)) * (1 + s**2).sqrt() / s,
            "flow": noise - x0,
        }[kind]

    def forward(self, x, c_noise, condition):
        return self.answer


@pytest.mark.parametrize("kind", PRECONDITIONS)
def test_perfect_network_gives_the_clean_picture(kind):
    x0, noise = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    x = x0 + SIGMAS[:, None, None, None] * noise
    denoised = Denoiser(Perfect(x0, noise, kind), kind)(x, SIGMAS, Condition())
    torch.testing.assert_close(denoised, x0, atol=1e-12, rtol=0)
    if kind not in ("direct", "x0"):  # the negative control: another row misreads the same answer
        other = "v" if kind == "eps" else "eps"
        assert (
            Denoiser(Perfect(x0, noise, kind), other)(x, SIGMAS, Condition()) - x0
        ).abs().max() > 1e-2


def test_edm_is_unit_variance():
    c = Denoiser(nn.Identity(), "edm", sigma_data=0.5).coefficients(SIGMAS)
    torch.testing.assert_close(c.c_in**2 * (SIGMAS**2 + 0.25), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_times_are_inverse(kind, zero):
    times = Times.from_betas(kind, zero_snr=zero)
    t = torch.tensor([0.0, 0.4, 17.0, 500.25, 998.5, 999.0], dtype=torch.float64)
    torch.testing.assert_close(times.to_time(at_times(times.sigmas, t)[:-1]), t, atol=1e-6, rtol=0)
    assert (times.sigmas.diff() > 0).all()
    assert times.sigmas.isfinite().all()


def test_guidance():
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, x, c_noise, condition):
            return condition.tokens.mean() * 0 + condition.tokens[:, :1, :1, None].expand_as(x)

    denoiser = Denoiser(Echo(), "direct")
    x, sigma = torch.zeros(1, 2, 3, 3), torch.ones(1)
    yes, no = Condition(torch.full((1, 7, 4), 2.0)), Condition(torch.full((1, 14, 4), 0.5))
    assert float(guided(denoiser, yes, no, 3.0)(x, sigma).mean()) == 0.5 + 3 * 1.5
    assert float(guided(denoiser, yes, no, 1.0)(x, sigma).mean()) == 2.0
    with pytest.raises(OptionError, match="needs tokens in both"):
        guided(denoiser, yes, Condition(), 3.0)
    with pytest.raises(OptionError, match="needs planes in both"):
        guided(denoiser, yes, Condition(no.tokens, planes=x), 3.0)


def test_guidance_keeps_the_watch_of_its_condition():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, x, c_noise, condition):
            condition.watch(condition.tokens, condition.tokens)
            return x

    yes = Condition(torch.zeros(1, 2, 4), watch=lambda queries, _: seen.append(len(queries)))
    guided(Denoiser(Watched(), "direct"), yes, Condition(torch.zeros(1, 2, 4)), 3.0)(
        torch.zeros(1, 2, 3, 3), torch.ones(1)
    )
    assert seen == [2]


def test_rescale_keeps_the_deviation():
    class Answer(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, x, c_noise, condition):
            return condition.planes

    made = torch.randn(2, 1, 3, 8, 8)
    denoiser, x, sigma = Denoiser(Answer(), "x0"), torch.zeros(1, 3, 8, 8), torch.ones(1)
    denoise = guided(
        denoiser, Condition(planes=made[0]), Condition(planes=made[1]), 5.0, rescale=1.0
    )
    assert abs(float(denoise(x, sigma).std() / made[0].std()) - 1) < 1e-4
    assert (
        float(
            guided(denoiser, Condition(planes=made[0]), Condition(planes=made[1]), 5.0)(
                x, sigma
            ).std()
        )
        > 2
    )


def test_consistent_with_a_measurement():
    x, known = torch.randn(1, 3, 8, 8), torch.zeros(8, 8)
    known[2:5] = 1
    operator = Mask(known)
    denoise = consistent(lambda x, s: torch.randn_like(x), operator, operator.apply(x))
    out = denoise(x, torch.ones(1))
    torch.testing.assert_close(operator.apply(out), operator.apply(x), atol=1e-6, rtol=0)
    assert not torch.equal(out, x)
