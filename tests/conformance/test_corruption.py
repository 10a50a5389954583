"""Every corruption of the registry: shapes, spelling, randomness; every linear one: adjoint and
pseudo-inverse.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.corruption.base import CORRUPTIONS, Compose, draw, parse
from sfumato.corruption.noise import FilmGrain, GaussianNoise, SaltAndPepper, ShotNoise
from sfumato.corruption.resample import Downscale, bicubic
from sfumato.errors import OptionError
from sfumato.types import Linear

SPELLINGS = [
    "none",
    "noise:25",
    "noise:0-50",
    "grain:25:0.7",
    "grain:0-50:1.5",
    "shot:5-50",
    "salt:0.1",
    "mask:0.5",
    "mask:box:0.25",
    "mask:strokes:0.2",
    "mask:text:0.1",
    "gray",
    "down:2",
    "down:1.5:average",
    "down:3.7",
    "down:8",
    "blur:1.6",
    "blur:0.4",
    "jpeg:30",
    "jpeg:10-95",
    "down:1.5-4",
    "scratches:0.05",
    "mask:0.5+noise:25",
    "gray+down:2",
    "mask:box:0.25+gray",
    "blur:1+down:2+noise:10",
    "down:2+mask:0.3",
]
LINEAR = [s for s in SPELLINGS if not s.startswith(("salt", "jpeg", "scratches", "shot"))]
sizes = st.integers(9, 33)


def picture(tall, wide, dtype, seed=0):
    return (
        torch.randn(
            2, 3, tall, wide, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        .clamp(-1, 1)
        .to(dtype)
    )


def bound(spelling, x):
    return draw(parse(spelling), x, torch.Generator().manual_seed(1))


def test_every_name_is_tested():
    assert {part.split(":")[0] for s in SPELLINGS for part in s.split("+")} == set(CORRUPTIONS)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_call(spelling):
    x = picture(24, 17, torch.float32)
    corruption = parse(spelling)
    assert str(corruption) == spelling
    one, two, other = (corruption(x, generator=torch.Generator().manual_seed(k)) for k in (3, 3, 4))
    assert torch.equal(one.y, two.y), "the same generator, the same corruption"
    assert one.sigma.shape == (2,)
    assert one.y.isfinite().all()
    if spelling not in ("gray", "none"):
        assert one.y.shape != x.shape or not torch.equal(one.y, x)
    if any(word in spelling for word in ("noise", "salt", "mask")):
        assert not torch.equal(one.y, other.y)


@settings(max_examples=8, deadline=None)
@given(tall=sizes, wide=sizes, seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spelling", LINEAR)
def test_adjoint_and_pinv(spelling, dtype, tall, wide, seed):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    x = picture(tall, wide, dtype, seed)
    operator = bound(spelling, x)
    assert isinstance(operator, Linear)
    y = operator.apply(x)
    other = torch.randn(
        y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)
    left, right = (
        (y.double() * other.double()).sum(),
        (x.double() * operator.adjoint(other).double()).sum(),
    )
    assert abs(left - right) <= tolerance * (y.double().norm() * other.double().norm()), (
        "<A x, y> = <x, A' y>"
    )
    assert (operator.apply(operator.pinv(y)) - y).abs().max() <= tolerance * max(
        1.0, float(y.abs().max())
    ), "A A+ A = A"


def test_a_wrong_adjoint_is_caught():
    x = picture(16, 16, torch.float64)
    operator = Downscale(2)
    y = operator.apply(x)
    wrong = operator.pinv(y)  # not the adjoint
    assert abs((y * y).sum() - (x * wrong).sum()) > 1e-3


def test_composition_is_one_operator():
    x = picture(16, 20, torch.float64)
    composed = bound("gray+down:2", x)
    assert isinstance(composed, Compose)
    parts = composed.parts
    assert torch.equal(composed.apply(x), parts[1].apply(parts[0].apply(x)))


def test_noise_level():
    y = parse("noise:25")(torch.zeros(1, 3, 256, 256), generator=torch.Generator().manual_seed(0))
    assert abs(float(y.y.std()) * 127.5 - 25) < 0.2
    drawn = parse("noise:0-50")(torch.zeros(500, 1, 1, 1)).sigma * 127.5
    assert 0 <= float(drawn.min()) < 5 < 45 < float(drawn.max()) <= 50


def test_mask_share():
    known = bound("mask:0.7", torch.zeros(1, 3, 128, 128)).apply(torch.ones(1, 3, 128, 128))
    assert abs(float((known == 0).float().mean()) - 0.7) < 0.02


@pytest.mark.parametrize("side", [64, 512, 1024])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_letters_cover_their_share_of_pictures_of_any_size(side, share):
    ones = torch.ones(1, 1, side, side)
    known = bound(f"mask:text:{share}", ones).apply(ones)
    assert share <= float((known == 0).float().mean()) < share + 0.25


@pytest.mark.parametrize(
    "text", ["mask:0.5:0.25", "gray:file:x:y", "jpeg:30.9", "mask:file", "mask:file:"]
)
def test_words_without_effect_are_refused(text):
    with pytest.raises(OptionError, match="cannot be read; write"):
        parse(text)


def test_mask_from_a_picture(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8), 0).save(tmp_path / "m.png")
    picture = Image.open(tmp_path / "m.png").copy()
    picture.putpixel((3, 2), 255)
    picture.save(tmp_path / "m.png")
    y = parse(f"mask:file:{tmp_path / 'm.png'}")(torch.ones(1, 3, 8, 8)).y
    assert y[0, 0, 2, 3] == 0
    assert y.sum() == 3 * 63


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (GaussianNoise, (-5, 3)),
        (GaussianNoise, (30, 20)),
        (ShotNoise, (0, 300)),
        (FilmGrain, (1, 2, -4)),
        (SaltAndPepper, (7,)),
    ],
)
def test_noise_has_a_range(kind, values):
    with pytest.raises(OptionError):
        kind(*values)


def test_bicubic_is_matlabs():
    """The weights of Keys' kernel with a = -1/2, widened by the factor: for a factor of 2, at
    distances of 1/4, 3/4, 5/4 and 7/4 of the new pixels. Away from the border a ramp stays a ramp.
    """
    keys = [0.43359375, 0.11328125, -0.03515625, -0.01171875]
    np.testing.assert_allclose(bicubic(16, 2.0)[4, 5:13], [*keys[::-1], *keys], atol=1e-12)
    row = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    small = Downscale(2).apply(row)[0, 0, 4]
    np.testing.assert_allclose(small[2:6], [4.5, 6.5, 8.5, 10.5], atol=1e-12)
    assert abs(float(small[0]) - 0.5) > 1e-3, "the mirrored border bends the ramp"


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("nose:25", "noise"),
        ("noise:x", "noise:25"),
        ("mask:2", "between 0 and 1"),
        ("mask:blob", "unknown mask"),
        ("down:9", "1.5 and 8"),
        ("jpeg:0", "1 to 100"),
        ("jpeg:inf", "jpeg:30"),
        ("blur:-1", "between"),
        ("down", "down:2"),
        ("salt:7", "share"),
        ("scratches:2", "share"),
        ("down:2:lanczos", "kernel"),
        ("noise:25 | gray", "alternatives"),
    ],
)
def test_bad_spelling(bad, word):
    with pytest.raises(OptionError, match=word):
        parse(bad)


@pytest.mark.parametrize("spelling", ["down:7.9-8", "down:3-3.01", "down:1.5-8"])
def test_a_random_factor_stays_in_its_range(spelling):
    low, high = (float(n) for n in spelling[5:].split("-"))
    for seed in range(20):
        factor = (
            parse(spelling)
            .draw(torch.zeros(1, 1, 10, 10), torch.Generator().manual_seed(seed))
            .factor
        )
        assert low - 1e-9 <= factor <= high + 1e-9
