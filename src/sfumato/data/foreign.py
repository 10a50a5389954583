"""Convert the settings that other programs store in a picture to options of `create`.

A1111 and its forks write text under ``parameters``, ComfyUI writes a graph of nodes under
``prompt``, and InvokeAI writes a record under ``invokeai_metadata``. Settings without a counterpart
in sfumato are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.errors import OptionError
from sfumato.metadata import read_all
from sfumato.sampler.registry import sampler_name, schedule_name

# a setting in the last line of A1111's text; a key is short, so a long line is read in linear time
PAIR = re.compile(r'(\w[\w ]{0,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def read_options(path: Path | bytes) -> dict[str, Any]:
    """Read the settings in a picture's file that sfumato or another program wrote.

    For a file of sfumato, all its settings are returned; for other programs, options of `create`.
    The result is empty if the file holds no settings.

    Raises
    ------
    PictureError
        If the file is not a readable picture.
    """
    settings, texts = read_all(path)
    return settings or options_of(texts)


def options_of(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the texts of a picture to options of `create`; return {} if they hold no settings.

    Parameters
    ----------
    texts : dict of str to str
        Text chunks of a PNG, or their counterparts in other formats.

    Examples
    --------
    >>> said = "a cat\\nNegative prompt: dog\\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3"
    >>> found = options_of({"parameters": said})
    >>> found["prompt"], found["negative_prompt"], found["sampler"], found["seed"]
    ('a cat', 'dog', 'euler_ancestral', 3)
    """
    readers = (
        ("parameters", from_a1111),
        ("prompt", from_comfyui),
        ("invokeai_metadata", from_invokeai),
        ("sd-metadata", from_invokeai),
    )
    for key, reader in readers:
        text = texts.get(key)
        found = reader(text) if isinstance(text, str) else {}
        if found.get("prompt"):
            return found
    return {}


def from_a1111(text: str) -> dict[str, Any]:
    """Parse A1111's text: a prompt, optionally a negative prompt, and a line of settings."""
    *lines, last = text.strip().split("\n")
    pairs = {key.strip(): _unquoted(value) for key, value in PAIR.findall(last)}
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    # the line break in front is there even without a positive prompt
    said, _, negative = "\n".join(["", *lines]).partition("\nNegative prompt: ")
    wide, _, tall = pairs.get("Size", "").partition("x")
    return _options(
        said,
        negative,
        steps=pairs.get("Steps"),
        guidance_scale=pairs.get("CFG scale"),
        seed=pairs.get("Seed"),
        sampler=pairs.get("Sampler"),
        schedule=pairs.get("Schedule type"),
        strength=pairs.get("Denoising strength"),
        size=(wide, tall),
    )


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value.strip()


def from_comfyui(text: str) -> dict[str, Any]:
    """Parse ComfyUI's graph: read the inputs of the first sampler and the texts linked to them."""
    graph = _record(text)
    nodes = {k: v for k, v in graph.items() if isinstance(v, dict)}
    for node in nodes.values():
        inputs = node.get("inputs")
        if "KSampler" not in str(node.get("class_type")) or not isinstance(inputs, dict):
            continue
        latent = _inputs(nodes, inputs.get("latent_image"))
        denoise = inputs.get("denoise")
        return _options(
            next(_texts(nodes, inputs.get("positive")), ""),
            next(_texts(nodes, inputs.get("negative")), ""),
            steps=inputs.get("steps"),
            guidance_scale=inputs.get("cfg"),
            seed=inputs.get("seed", inputs.get("noise_seed")),
            sampler=inputs.get("sampler_name"),
            schedule=inputs.get("scheduler"),
            strength=None if denoise in (1, 1.0) else denoise,
            size=(latent.get("width"), latent.get("height")),
        )
    return {}


def _inputs(nodes: Mapping[str, Any], link: object) -> dict[str, Any]:
    """The inputs of the node that a link comes from."""
    if not (isinstance(link, list) and link and str(link[0]) in nodes):
        return {}
    inputs = nodes[str(link[0])].get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _texts(nodes: Mapping[str, Any], link: object) -> Iterator[str]:
    """Yield the texts that a link leads to, nearest first; each node is visited only once."""
    waiting, seen = [link], set[str]()
    while waiting:
        link = waiting.pop(0)
        if not (isinstance(link, list) and link) or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        values = list(_inputs(nodes, link).values())
        yield from (value for value in values if isinstance(value, str) and value.strip())
        waiting += [value for value in values if isinstance(value, list)]


def from_invokeai(text: str) -> dict[str, Any]:
    """Parse InvokeAI's record."""
    record = _record(text)
    return _options(
        record.get("positive_prompt"),
        record.get("negative_prompt"),
        steps=record.get("steps"),
        guidance_scale=record.get("cfg_scale"),
        seed=record.get("seed"),
        sampler=record.get("scheduler"),
        size=(record.get("width"), record.get("height")),
    )


def _record(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _options(
    prompt: object, negative: object, *, size: tuple[Any, Any] = (None, None), **given: Any
) -> dict[str, Any]:
    """Convert settings to options; values that cannot be read are left out."""
    out: dict[str, Any] = {"prompt": str(prompt or "").strip()}
    if str(negative or "").strip():
        out["negative_prompt"] = str(negative).strip()
    kinds = {"steps": int, "seed": int, "guidance_scale": float, "strength": float}
    for name, kind in kinds.items():
        number = _number(given.get(name), kind)
        if number is not None:
            out[name] = number
    out |= _sampler(str(given.get("sampler") or ""), str(given.get("schedule") or ""))
    sides = [_number(side, int) for side in size]
    if all(sides):
        out["size"] = sides
    return out


def _number(value: object, kind: type[int] | type[float]) -> int | float | None:
    try:
        number = kind(str(value)) if isinstance(value, str | int | float) else None
        return number if number is not None and math.isfinite(number) else None
    except (ValueError, OverflowError):
        return None


def _sampler(sampler: str, schedule: str) -> dict[str, Any]:
    """Return our names of a sampler and a schedule; "DPM++ 2M Karras" names both."""
    out: dict[str, Any] = {}
    named = re.fullmatch(r"(.+?)[ _](karras|exponential)", sampler, re.IGNORECASE)
    if named:
        sampler, schedule = named[1], named[2]
    sampler = re.sub(r"_k$", "", sampler)  # InvokeAI's suffix for Karras's noise levels
    for name, value, known in (
        ("sampler", sampler, sampler_name),
        ("schedule", schedule, schedule_name),
    ):
        try:
            out |= {name: known(value)} if value else {}
        except OptionError:
            continue
    return out
