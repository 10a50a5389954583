"""Hinted colors, spread over a picture."""

import numpy as np
import pytest

from sfumato.data.photo import Photo
from sfumato.tasks.restore.color import colorize
from sfumato.tasks.restore.hints import spread


def test_values_stop_at_edges_and_fade_with_distance():
    gray = np.full((40, 60), -0.5)
    gray[10:30, 10:30] = 0.5  # a square
    inside = np.zeros(gray.shape, bool)
    inside[10:30, 10:30] = True
    found = spread(gray, np.array([[20, 20]]), np.array([[1.0, -0.5]]))
    assert found.shape == (40, 60, 2)
    assert found[inside, 0].min() > 0.8 and found[inside, 1].max() < -0.4
    assert np.abs(found[~inside]).max() < 0.1


def test_two_hints_share_a_flat_picture():
    found = spread(np.zeros((21, 41)), np.array([[10, 5], [10, 35]]), np.array([[1.0], [-1.0]]))
    assert found[10, 5, 0] == pytest.approx(1, abs=0.05)
    assert found[10, 35, 0] == pytest.approx(-1, abs=0.05)
    assert np.abs(found[:, 20]).max() < 1e-6  # in the middle neither wins
    assert np.all(np.diff(found[10, 5:36, 0]) < 0)


def test_a_hint_does_not_tint_what_is_much_brighter():
    """Without an edge between both, a color would reach the whole picture."""
    gray = np.linspace(-0.8, 0.8, 60)[None].repeat(40, 0)
    found = spread(gray, np.array([[20, 3]]), np.array([[1.0]]))[..., 0]
    assert found[:, :10].min() > 0.4
    assert found[:, 40:].max() < 0.1


def test_a_hint_colors_the_whole_object():
    """A shirt becomes red, the wall behind it stays as it was guessed."""
    values = np.full((120, 160, 1), 60, np.uint8)
    values[30:110, 40:120] = 150
    hints = ((80, 70, "#d05040"),)
    made = colorize(Photo(values), hints, 1.0, lambda gray: gray.expand(-1, 3, -1, -1) * 0).values
    red = made[..., 0].astype(int) - made[..., 2]
    assert red[36:104, 46:114].min() > 100
    assert np.abs(red[:20]).max() < 25 and np.abs(red[:, :25]).max() < 25
