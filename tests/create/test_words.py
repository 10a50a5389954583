"""Emoji are read by their names, and a prompt without a known word is told."""

from dataclasses import replace

import pytest

from sfumato.condition.words import knows_no_word, with_names
from sfumato.hub.catalog import BUNDLED
from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.tasks.nearest import training_names


@pytest.fixture(scope="module")
def icons():
    return load("icons")


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("\U0001f34e", "red apple"),
        ("\U0001f436 with a hat", "dog face with a hat"),
        ("\u2764\ufe0f on ice", "heart on ice"),
        ("\u2615, Noto emoji", "hot beverage, Noto emoji"),
        ("\U0001f44d\U0001f3fd", "thumbs up sign"),
        ("\U0001f469\u200d\U0001f680", "woman rocket"),
        ("\U0001f1e9\U0001f1ea", "flag"),
        ("a red apple", "a red apple"),
        ("caf\u00e9  au lait", "caf\u00e9  au lait"),
    ],
)
def test_emoji_are_read_by_their_names(icons, prompt, named):
    assert with_names(icons.text, prompt) == named


def test_an_emoji_makes_the_picture_of_its_name(icons):
    options = CreateOptions(seed=3, steps=2)
    sign, word = (create(text, options, icons)[0] for text in ("\U0001f34e", "red apple"))
    assert sign.picture.tobytes() == word.picture.tobytes()
    assert sign.settings["prompt"] == "\U0001f34e"
    assert sign.settings["styled"] == word.settings["styled"] and not sign.unknown


@pytest.mark.parametrize("prompt", ["xyzzyq", "a qwrtz gnarf", "asdfgh", "\u732b", "the florb"])
def test_no_known_word(icons, prompt):
    assert knows_no_word(icons.text, prompt)


@pytest.mark.parametrize("prompt", ["a kitten", "a red florb", "zebra", "a", "???", "", "a5"])
def test_some_known_word(icons, prompt):
    assert not knows_no_word(icons.text, prompt)


def test_names_of_training_pictures_are_known(icons):
    names = sorted({row["name"] for row in training_names(BUNDLED / "icons")})
    unknown = [name for name in names if knows_no_word(icons.text, name)]
    assert len(names) > 5000 and len(unknown) < 0.01 * len(names), unknown


@pytest.mark.parametrize(
    ("prompt", "near"),
    [("serpent", "snake"), ("mice", "mouse"), ("a snake", None), ("kittens", None)],
)
def test_the_nearest_names_are_told_if_no_picture_has_the_name(icons, prompt, near):
    made = create(prompt, CreateOptions(seed=3, steps=1), icons)[0]
    assert (made.near and made.near[0]) == near and not made.unknown


def test_the_note_names_them(run):
    words = ["create", "serpent", "--steps", 1, "--seed", 1, "--output", "s.png"]
    assert 'no training picture is named "serpent"; similar names are snake' in run(*words)[2]
    words[1] = "Hund"
    said = 'no training picture is named "Hund"; none has a similar name'
    assert said in run(*words, "--overwrite")[2]


def test_the_word_of_a_lora_is_not_corrected():
    made = create("fizz", CreateOptions(seed=3, steps=1, loras=(str(BUNDLED / "icons/fast"),)))[0]
    assert made.near is None


def test_a_model_without_names_tells_none(tiny):
    assert create("serpent", CreateOptions(model=str(tiny), steps=1))[0].near is None


def test_without_a_text_encoder_nothing_is_unknown():
    from sfumato.condition.text import NoText

    assert not knows_no_word(NoText(), "xyzzyq") and with_names(NoText(), "\u2615") == "\u2615"


def test_a_later_text_without_a_known_word_is_told_and_a_lora_may_know_it(icons):
    options = CreateOptions(seed=3, steps=2, best_of=1, then_step=2, then="qwrtz gnarf")
    made = create("a red apple", options, icons)[0]
    assert made.then_unknown and not made.unknown
    with_lora = replace(icons, loras=("mine/",))
    made = create("gnarf", CreateOptions(seed=3, steps=2, best_of=1), with_lora)[0]
    assert not made.unknown and made.near is None
