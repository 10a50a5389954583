"""Weights in prompts, as the Stable Diffusion web UI reads them."""

import pytest

from sfumato.condition.text import tokenize, weighted
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.hub.load import load

# What `parse_prompt_attention` of the web UI gives.
KNOWN = {
    "a (red:1.) apple": [("a red apple", 1.0)],
    "a (red:.5) apple": [("a ", 1.0), ("red", 0.5), (" apple", 1.0)],
    "a (red:+1.5) apple": [("a ", 1.0), ("red", 1.5), (" apple", 1.0)],
    "(((a))": [("a", 1.331)],
    "([)": [],
    "\\a \\(b\\)": [("a (b)", 1.0)],
}


@pytest.mark.parametrize("prompt", KNOWN)
def test_weights(prompt):
    assert [(text, pytest.approx(weight)) for text, weight in weighted(prompt)] == KNOWN[prompt]


def test_a_break_begins_a_chunk():
    tokenizer = CLIPTokenizer.original()
    found = tokenize(tokenizer, "a (red BREAK big:1.2) apple")
    assert [tokenizer.text(chunk) for chunk in found.chunks] == ["a red", "big apple"]
    assert found.weights == [[1.0, 1.2], [1.2, 1.0]]
    assert len(tokenize(tokenizer, "breakfast break").chunks) == 1


def test_weights_of_states_without_a_mean_are_finite(tiny):
    """A fresh text transformer's states have a mean of zero, which cannot be restored."""
    encoder = load(tiny).text
    condition, _ = encoder(["ein (röter:1.3) Apfel red apple and more of it"], (16, 16))
    plain, _ = encoder(["ein röter Apfel red apple and more of it"], (16, 16))
    assert condition.tokens.isfinite().all()
    ratio = (condition.tokens[0, 4] / plain.tokens[0, 4]).mean()
    assert 1.25 < float(ratio) < 1.35
