"""Each attention map has the name of the token that it belongs to, whatever text a step follows."""

import json

import pytest
import torch

import sfumato
from sfumato.errors import OptionError
from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.explain.trace import trace


@pytest.fixture(scope="module")
def bundled():
    return load("icons")


def options(**given):
    return CreateOptions(**{"seed": 1, "steps": 2, "best_of": 1, **given})


def pieces(words):
    return [word.piece for word in words]


def test_maps_from_a_step_on_belong_to_the_other_text(bundled, tmp_path):
    """Where the noisy latents agree, the maps are those of a run with the other text."""
    branched = trace("a red apple", options(then_step=1, then="two green pears"), bundled)
    plain = trace("two green pears", options(), bundled)
    assert branched.words_at(0) == branched.then_words == plain.words
    assert pieces(branched.words)[1:4] == ["a", "red", "apple"]
    ours, theirs = branched.steps[0].attention, plain.steps[0].attention
    count = len(plain.words)
    assert torch.allclose(ours[:, :count], theirs[:, :count])
    assert torch.allclose(ours[:, -1], theirs[:, -1])
    assert not ours[:, count:-1].any()
    late = trace("a red apple", options(then_step=2, then="two green pears"), bundled)
    assert pieces(late.words_at(0))[3] == "apple"
    assert pieces(late.words_at(1))[1] == "two"
    late.save(tmp_path)
    record = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    assert [w["piece"] for w in record["then_words"]][1] == "two"


def test_a_longer_negative_prompt_leaves_the_words_their_attention(bundled):
    """Guidance repeats the shorter text; the maps of a repeated token are added up."""
    shares = []
    for negative in ("", "cat " * 40):
        found = trace("apple", options(negative_prompt=negative), bundled)
        step = found.steps[0]
        assert torch.allclose(step.attention.sum(dim=1), torch.ones(()), atol=1e-4)
        shares.append(step.attention[:, pieces(found.words).index("apple")].mean())
    assert torch.allclose(*shares, rtol=0.01)


def test_estimates_without_a_text_are_kept_where_there_are_some(bundled):
    branched = options(then_step=2, then_guidance_scale=1)
    tensors = trace("a cat", branched, bundled).tensors()
    assert len(tensors["negative"]) == 2
    assert not torch.equal(tensors["negative"][0], tensors["positive"][0])
    assert torch.equal(tensors["negative"][1], tensors["positive"][1])


def test_one_prompt_at_a_time():
    with pytest.raises(OptionError, match="only one prompt can be explained at a time"):
        sfumato.trace(["a cat", "a dog"])
