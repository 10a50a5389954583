"""Points on a plane are learned, and sampling leads to them."""

import math

import pytest
import torch

from sfumato.errors import OptionError
from sfumato.tasks.points import PointsOptions, Walks, sample
from sfumato.types import Progress


def two_spots():
    random = torch.Generator().manual_seed(0)
    near, far = (torch.randn(200, 2, generator=random) * 0.15 for _ in range(2))
    left = [(float(x) - 1, float(y), 1) for x, y in near]
    return left + [(float(x) + 1, float(y), 2) for x, y in far]


POINTS = two_spots()
KEPT: dict = {}


def sampled(**more):
    *_, last = sample(PointsOptions(points=POINTS, training=600, count=200, **more), KEPT)
    return last


def test_walks_end_at_the_points():
    made = sampled()
    assert made.paths.shape == (21, 200, 2) and len(made.sigmas) == 21 and made.sigmas[-1] == 0
    ends = made.paths[-1]
    assert 0.3 < float((ends[:, 0] < 0).float().mean()) < 0.7, "both spots"
    spot = torch.stack([ends[:, 0].abs() - 1, ends[:, 1]], dim=1)
    assert float(spot.norm(dim=1).median()) < 0.3
    # the deviation of a spot of its own, not of its mean
    assert 0.08 < float(ends[ends[:, 0] < 0].std(dim=0).mean()) < 0.3


def test_a_class_is_followed_and_guidance_moves_away_from_the_other():
    plain, strong = sampled(follow=1), sampled(follow=1, guidance_scale=4)
    assert float((plain.paths[-1][:, 0] < 0).float().mean()) > 0.95
    assert strong.paths[-1][:, 0].mean() < plain.paths[-1][:, 0].mean() - 0.02


def test_the_guess_at_high_noise_is_the_mean_and_at_low_noise_the_place_itself():
    made = sampled()
    middle = torch.tensor([[x, y] for x, y, _ in POINTS]).mean(dim=0)
    assert (made.guesses[0] - middle).norm(dim=1).median() < 0.25
    on = ((made.grid - torch.tensor([-1.0, 0.0])).norm(dim=1) < 0.3).nonzero().flatten()
    assert len(on) and (made.guesses[-1][on] - made.grid[on]).norm(dim=1).max() < 0.3


def test_what_was_learned_is_kept_and_the_same_seed_walks_the_same():
    first, again = sampled(seed=3), sampled(seed=3)
    assert torch.equal(first.paths, again.paths)
    events = list(sample(PointsOptions(points=POINTS, training=600, count=5, seed=3), KEPT))
    assert not any(isinstance(event, Progress) for event in events)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "ddim", "unipc"])
def test_any_sampler_leads_there(sampler):
    ends = sampled(sampler=sampler, steps=15).paths[-1]
    assert float(torch.stack([ends[:, 0].abs() - 1, ends[:, 1]], 1).norm(dim=1).median()) < 0.4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"points": [(0, 0, 1)]}, "points"),
        ({"points": [(0, math.nan, 1), (0, 0, 1)]}, "not on the plane"),
        ({"points": [(0, 0, 3), (0, 0, 1)]}, "class is 1 or 2"),
        ({"sampler": "none"}, "none"),
        ({"steps": 0}, "steps"),
    ],
)
def test_what_cannot_be_walked(more, said):
    with pytest.raises(OptionError, match=said):
        PointsOptions(**{"points": POINTS, **more})


def test_narrow_rings_are_learned():
    angles = torch.linspace(0, 200 * math.pi, 601)[:-1]
    radii = torch.tensor([1.0, 2.0]).repeat(300)
    rings = [
        (float(r * a.cos()), float(r * a.sin()), 1) for a, r in zip(angles, radii, strict=True)
    ]
    options = PointsOptions(points=rings, training=1000, count=300)
    (made,) = (event for event in sample(options) if isinstance(event, Walks))
    away = made.paths[-1].norm(dim=1)
    off = torch.minimum((away - 1).abs(), (away - 2).abs())
    assert float((off < 0.15).float().mean()) > 0.8  # .25 without sines of the coordinates
