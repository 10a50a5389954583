"""Read the settings in a picture of `create`, to generate the picture again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato import metadata
from sfumato.condition.words import with_names
from sfumato.errors import OptionError, PictureError
from sfumato.hub.files import digest
from sfumato.hub.load import Model
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.prompts import Prompt


def settings_of(
    path: Path, given: Mapping[str, Any], wanted: Sequence[Prompt] = ()
) -> tuple[list[Prompt], dict[str, Any], Model]:
    """Return the prompts, options and model to generate a picture again.

    Newly given options and prompts take precedence over those stored in the picture.
    """
    settings, _ = metadata.read(path)
    if (
        settings is None
        or settings.get("task") != "create"
        or not isinstance(settings.get("prompt"), str)
    ):
        raise PictureError(
            f"{path} contains no settings of sfumato create; sfumato inspect shows what it contains"
        )
    # settings of older pictures have no candidate
    known = {"candidate": 0} | {
        k: v for k, v in settings.items() if k in CreateOptions.model_fields
    }
    chosen = {k: v for k, v in given.items() if v is not None and k != "count"}
    if settings.get("prior", 1) != 1 and not chosen.keys() & {"model", "source"}:
        raise OptionError(
            f"{path} was generated from a prior's estimate of the text, which is not supported any "
            "more: the picture cannot be reproduced"
        )
    for kind in ("source", "mask", "model"):  # the stored path, or a file next to the picture
        if (
            isinstance(file := known.get(kind), str)
            and not Path(file).exists()
            and (path.parent / file).exists()
        ):
            settings[kind] = known[kind] = str(path.parent / file)
    _same_files(path, settings, {"source", "mask"} - chosen.keys())
    known = {k: v for k, v in known.items() if k not in _overridden(chosen, given, wanted)}
    both = {**known, **chosen}
    if not both.get("source"):
        known.pop("strength", None)
    if both.get("then") is None and both.get("then_guidance_scale") is None:
        known.pop("then_step", None)  # of older pictures; it changes nothing alone
    values = {**given, **known, **chosen}
    model = load_model(CreateOptions.build(values))
    if "model" not in chosen:
        _same_weights(path, settings, model)
    if not wanted and not chosen.keys() & {"model", "style"}:
        _same_words(path, settings, model)
    return list(wanted) or [Prompt(settings["prompt"])], values, model


def _same_weights(path: Path, settings: Mapping[str, Any], model: Model) -> None:
    """Refuse to reproduce a picture if the model's weights have changed."""
    parts = model.parts
    then = settings.get("parts") or {}
    wrong = (
        [k for k, v in then.items() if parts.get(k) != v] if isinstance(then, dict) else ["parts"]
    )
    if settings.get("model_sha256") != model.sha256 or wrong:
        raise OptionError(
            f"{path} was generated with other weights of the model {model.name}: the picture "
            "cannot be reproduced"
        )


def _same_words(path: Path, settings: Mapping[str, Any], model: Model) -> None:
    """Refuse to reproduce a picture if the words of its style have changed."""
    words = model.defaults.styles.get(settings.get("style") or "")
    named = with_names(model.text, settings["prompt"])
    styled = f"{named}, {words}" if words else named
    if settings.get("styled", styled) != styled:
        raise OptionError(
            f'{path} was generated from "{settings["styled"]}", but the style is "{words}" now: '
            "the picture would not be the same"
        )


def _same_files(path: Path, settings: Mapping[str, Any], kinds: set[str]) -> None:
    for kind in sorted(kinds):
        file = settings.get(kind)
        if file and not isinstance(file, str):
            raise PictureError(f"{path}: its settings are damaged: {kind} is {file!r:.60}")
        if file and not Path(file).is_file():
            raise OptionError(f"{path} was generated from {file}, which does not exist any more")
        if file and settings.get(f"{kind}_sha256") not in (None, digest(Path(file))):
            raise OptionError(
                f"{path} was generated from another version of {file}: the picture cannot be "
                "reproduced"
            )


def _overridden(
    chosen: Mapping[str, Any], given: Mapping[str, Any], wanted: Sequence[Prompt]
) -> set[str]:
    """Stored settings that the newly given options and prompts make invalid."""
    out: set[str] = set()
    if chosen.keys() & {"model", "sampler"}:
        out.add("eta")
    if "model" in chosen:  # chosen for the other model
        out |= {"style", "size", "steps", "guidance_scale", "sampler", "best_of"}
    if chosen.keys() & {"model", "seed", "best_of"} or wanted or (given.get("count") or 1) > 1:
        out.add("candidate")  # the best candidate is chosen again
    return out
