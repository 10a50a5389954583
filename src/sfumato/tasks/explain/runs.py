"""The sampling runs that an explanation compares: one per prompt, and variations of the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.errors import OptionError, unknown
from sfumato.hub.load import Model
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import check, make_plan
from sfumato.tasks.create.run import SamplerProgress
from sfumato.tasks.explain.trace import Trace, record

# options that may differ between the runs of a page
VARIED = frozenset(
    "negative_prompt steps guidance_scale guidance_rescale sampler schedule eta style seed "
    "strength then then_step then_guidance_scale".split()
)


@dataclass(frozen=True)
class Asked:
    """A planned run: its prompt, its options, and a label to distinguish it from the others."""

    text: str
    options: CreateOptions
    label: str


def runs_of(
    texts: list[str], options: CreateOptions, model: Model, changes: Sequence[Mapping[str, Any]]
) -> list[Asked]:
    """List all runs, and check them before any work."""
    runs = [Asked(text, options, text) for text in texts]
    for change in changes:
        given = dict(change)
        text = str(given.pop("prompt", texts[0]))
        if strange := sorted(given.keys() - CreateOptions.model_fields.keys()):
            raise unknown("option", strange[0], [*sorted(VARIED), "prompt"])
        if wrong := sorted(given.keys() - VARIED):
            raise OptionError(f"{wrong[0]} cannot differ between the runs of a page")
        values = {**options.model_dump(exclude_unset=True), **given}
        label = _label(text if text != texts[0] else "", given)
        runs.append(Asked(text, CreateOptions.build(values), label))
    for run in runs:
        check([run.text], make_plan(run.options, model))
    return runs


def _label(text: str, given: Mapping[str, Any]) -> str:
    """The differences of a run from the first: "from step 4: a green pear", "guidance scale 1"."""
    names = {"then": "{}", "then_guidance_scale": "guidance scale {}"}
    parts = [text] if text else []
    for name, value in given.items():
        if name != "then_step":
            parts.append(names.get(name, name.replace("_", " ") + " {}").format(value))
    start = f"from step {given['then_step']}: " if "then_step" in given else ""
    return start + ", ".join(parts)


def record_runs(asked: list[Asked], model: Model) -> Iterator[SamplerProgress | Trace]:
    """Record the best candidate of the first run, and the candidate of the same index in the
    others.
    """
    first_walks, candidate = 1, None
    for k, run in enumerate(asked):
        options = run.options
        if candidate is not None:
            options = options.model_copy(update={"candidate": candidate})
        for event in record(run.text, options, model):
            if isinstance(event, Trace):
                yield event
                candidate = event.made.settings["candidate"]
                continue
            if k == 0:
                first_walks = event.total
            done = event.done if k == 0 else first_walks + k - 1
            yield SamplerProgress(event.step, event.steps, done, first_walks + len(asked) - 1)
