"""The experiments of the page Learn, against what is known to come out."""

import numpy as np
import pytest

from sfumato.errors import OptionError
from sfumato.tasks.lessons import Learned, LessonOptions, lesson

# an arc, which no line fits; and two heights at each place, of which one is three times as frequent
ARC = [(2 * t, 2 * t * t - 1, 1) for t in np.linspace(-1, 1, 200)]
FORK = [(t, 1.5 if k % 4 else -1.5, 1) for k, t in enumerate(np.linspace(-2, 2, 400))]


def end(**asked):
    *events, last = lesson(LessonOptions(**asked))
    assert isinstance(last, Learned) and last.final
    assert events
    return last.about


def test_pca_is_a_line_and_an_autoencoder_a_curve():
    about = end(lesson="outliers", points=ARC, steps=600)
    line = np.array(about["pca"]["clean"]["curve"])
    assert np.linalg.matrix_rank(line - line[0], tol=0.01) == 1
    # the variance across the line, as eigenvalues say it
    values = np.linalg.eigvalsh(np.cov(np.array(ARC)[:, :2].T, bias=True))
    assert about["pca"]["clean"]["error"] == pytest.approx(values[0], rel=1e-3)
    assert about["autoencoder"]["clean"]["error"] < 0.1 * values[0]
    assert len(about["outliers"]) == 10
    assert about["pca"]["spoiled"]["error"] > 1.05 * about["pca"]["clean"]["error"]


def test_losses_answer_with_mean_median_and_likeliest():
    curves = end(lesson="losses", points=FORK, steps=400)["curves"]
    middle = {
        name: np.mean([y for x, y in curve if abs(x) < 1.5]) for name, curve in curves.items()
    }
    assert middle["squared"] == pytest.approx(0.75, abs=0.1)  # 3/4 of 1.5, 1/4 of -1.5
    assert middle["absolute"] == pytest.approx(1.5, abs=0.1)
    assert middle["classes"] == pytest.approx(1.5, abs=0.1)


def test_labels_are_not_looked_at():
    about = end(lesson="labels", steps=300)
    assert about["equal"]
    assert about["accuracy"]["true"] > 0.6 and about["accuracy"]["drawn"] < 0.2
    assert len(about["map"]) == len(about["labels"]["true"]) == 1797


def test_a_denoising_autoencoder_is_seen_to_learn():
    events = list(lesson(LessonOptions(lesson="denoising", steps=300)))
    seen = [event for event in events if isinstance(event, Learned)]
    assert len(seen) > 4 and [event.final for event in seen][-2:] == [False, True]
    first, last = seen[0].about, seen[-1].about
    assert first["step"] == 1 and last["step"] == 300
    assert last["after"] > last["before"] + 2 and last["after"] > first["after"]
    assert seen[-1].picture.width > seen[-1].picture.height


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"lesson": "outliers"}, "at least 8 points"),
        ({"lesson": "losses", "points": [(0, float("nan"), 1)] * 9}, "not on the plane"),
        ({"lesson": "denoising", "corruption": "mask:file:x"}, "corruption"),
        ({"lesson": "magic"}, "lesson"),
    ],
)
def test_what_cannot_be_learned(asked, said):
    with pytest.raises(OptionError, match=said):
        LessonOptions.build(asked)
