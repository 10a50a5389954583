"""Metrics against the definition, by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sfumato.metrics import (
    colorfulness,
    knn_accuracy,
    luminance,
    mean_average_precision,
    precision_at,
    psnr,
    ssim,
)

RNG = np.random.default_rng(0)
CODES, LABELS = RNG.normal(size=(700, 5)), RNG.integers(0, 4, 700)
CODES[:, 0] += LABELS  # labels can be guessed, but not well


def test_knn_by_its_definition():
    gaps = np.linalg.norm(CODES[400:, None] - CODES[None, :400], axis=2)
    assert (
        knn_accuracy(CODES[:400], LABELS[:400], CODES[400:], LABELS[400:])
        == (LABELS[gaps.argmin(axis=1)] == LABELS[400:]).mean()
    )
    votes = np.stack(
        [(LABELS[np.argsort(gaps, axis=1)[:, :5]] == name).sum(axis=1) for name in range(4)], axis=1
    )
    assert knn_accuracy(CODES[:400], LABELS[:400], CODES[400:], LABELS[400:], 5) == pytest.approx(
        (votes.argmax(axis=1) == LABELS[400:]).mean()
    )


def test_precision_and_average_precision():
    unit = CODES / np.linalg.norm(CODES, axis=1, keepdims=True)
    near = unit @ unit.T
    hits, average = [], []
    for q in range(len(CODES)):
        others = np.delete(np.arange(len(CODES)), q)
        order = others[np.argsort(-near[q, others], kind="stable")]
        hits.append((LABELS[order[:7]] == LABELS[q]).mean())
        average.append(average_precision_score(LABELS[others] == LABELS[q], near[q, others]))
    assert precision_at(CODES, LABELS, [7])[7] == pytest.approx(np.mean(hits), abs=1e-6)
    assert mean_average_precision(CODES, LABELS) == pytest.approx(np.mean(average), abs=1e-4)
    # the negative control
    assert (
        precision_at(CODES, RNG.permutation(LABELS), [7])[7] < precision_at(CODES, LABELS, [7])[7]
    )


def test_ssim_by_its_definition():
    picture = RNG.uniform(0, 255, (20, 17))
    other = np.clip(picture + RNG.normal(0, 20, picture.shape), 0, 255)
    axis = np.exp(-np.square(np.arange(-5, 6)) / 4.5)
    window = np.outer(axis, axis) / axis.sum() ** 2
    scores = []
    for i in range(10):
        for j in range(7):
            a, b = picture[i : i + 11, j : j + 11], other[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb, cov = (
                (window * (a - ma) ** 2).sum(),
                (window * (b - mb) ** 2).sum(),
                (window * (a - ma) * (b - mb)).sum(),
            )
            scores.append(
                (2 * ma * mb + 6.5025)
                * (2 * cov + 58.5225)
                / ((ma**2 + mb**2 + 6.5025) * (va + vb + 58.5225))
            )
    assert ssim(picture, other) == pytest.approx(np.mean(scores), abs=1e-9)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(np.stack([picture] * 3, -1), np.stack([other] * 3, -1)) == pytest.approx(
        np.mean(scores), abs=1e-9
    )


def test_psnr_of_noise_is_analytic():
    picture = RNG.uniform(0, 255, (512, 512))
    # numbers of the field's tables for the unclipped input
    for sigma, want in ((15, 24.61), (25, 20.17), (50, 14.15)):
        assert psnr(picture, picture + RNG.normal(0, sigma, picture.shape)) == pytest.approx(
            want, abs=0.03
        )
    assert psnr(picture, picture) == np.inf
    edge = picture.copy()
    edge[:3] += 9
    assert psnr(picture, edge, border=3) == np.inf


def test_colors():
    assert colorfulness(np.full((4, 4, 3), 80)) == 0
    red = np.zeros((4, 4, 3))
    red[..., 0] = 255
    assert colorfulness(red) == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert luminance(red)[0, 0] == pytest.approx(16 + 65.481)
