"""Check requests of clients, and convert them for jobs.

A path would let a stranger read the server's files, so a picture is sent as bytes and stored in the
job's own folder. Models are given by name, and the server must offer them.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from sfumato import image
from sfumato.errors import OptionError, PictureError, unknown
from sfumato.hub.catalog import bundled, restorers
from sfumato.hub.lora import lora_scale
from sfumato.runtime import random_seed
from sfumato.web.bodies import (
    CODES,
    LARGEST,
    LARGEST_CODE,
    LONGEST,
    MOST,
    PICTURES,
    RESULT,
    ROWS,
    TABLES,
    WIDE,
    WIDEST,
    Body,
    CreateBody,
    ProbeBody,
    ReduceBody,
    RestoreBody,
    SearchBody,
    TraceBody,
)
from sfumato.web.unpacked import check_unpacked

SUFFIX = ".safetensors"  # left out of the names of models and LoRAs


@dataclass(frozen=True)
class Offered:
    """The models, indexes and LoRAs that a server offers: names and paths."""

    models: Mapping[str, str]
    indexes: Mapping[str, str]
    loras: Mapping[str, str]


def checked(body: Body, folder: Path, offered: Offered) -> dict[str, Any]:
    """Check a request and convert it for a job.

    Pictures become files in `folder`, names of models become paths, and a missing seed is chosen.

    Raises
    ------
    OptionError
        If the request exceeds the server's limits or names a model that it does not offer.
    PictureError
        If a picture cannot be read.
    """
    request = body.model_dump(mode="json", exclude_unset=True)
    match body:
        case CreateBody():
            request |= _created(body, request, offered)
        case RestoreBody():
            request |= _restored(body, offered.models)
        case ProbeBody():
            request["model"] = _model(body.model, offered.models)
        case ReduceBody():
            request |= _reduced(body, folder)
        case SearchBody():
            request |= _searched(body, offered.indexes)
    for name in ("device", "dtype", "batch"):
        request.pop(name, None)  # the server chooses these itself
    for name in PICTURES:
        if request.get(name) is not None:
            request[name] = str(kept(request[name], folder, name))
    if isinstance(body, RestoreBody):
        _check_result(Path(request["image"]), body.enlarge or 1)
    return request


def _created(body: CreateBody, request: dict[str, Any], offered: Offered) -> dict[str, Any]:
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    _check_amount(body, texts)
    for change in body.changes if isinstance(body, TraceBody) else ():
        same = {name: value for name, value in request.items() if name != "changes"}
        _check_amount(CreateBody.build({**same, **change}), texts)
    seed = random_seed() if body.seed is None else body.seed
    found = {"prompt": texts, "model": _model(body.model, offered.models), "seed": seed}
    return found | {"loras": [_lora(asked, offered.loras) for asked in body.loras]}


def _lora(asked: str, loras: Mapping[str, str]) -> str:
    """The path and scale of a LoRA that the server offers, as ``PATH:SCALE``."""
    name, scale = lora_scale(asked)
    name = name.removesuffix(SUFFIX)  # older settings have it
    if name not in loras:
        raise unknown("LoRA", name, loras)
    return f"{loras[name]}:{scale:g}"


def _restored(body: RestoreBody, models: Mapping[str, str]) -> dict[str, Any]:
    if body.engine == "diffusion" or (body.engine == "auto" and body.model in models):
        return {"model": _model(body.model or "icons", models)}
    if body.model is not None and body.model not in restorers():
        raise unknown("model", body.model, restorers())
    return {}


def _reduced(body: ReduceBody, folder: Path) -> dict[str, Any]:
    if len(body.codes) > CODES or max(body.codes) > LARGEST_CODE:
        raise OptionError(
            f"the server compares at most {CODES} code lengths of at most {LARGEST_CODE} numbers"
        )
    layers = body.layers or (1,)
    if max(layers) > WIDEST or sum(layers) > WIDE:
        raise OptionError(
            f"the server trains hidden layers of at most {WIDEST} units, {WIDE} in total"
        )
    if "file:" in (body.corruption or ""):
        raise OptionError("the server does not accept a corruption that reads files")
    kind = Path(body.name).suffix.lower()
    if kind not in TABLES:
        raise OptionError(
            f"{body.name}: the name of the file must end in one of {', '.join(TABLES)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"data{kind}"
    if body.data is None:
        digits, path = load_digits(), folder / "data.npz"
        np.savez(path, images=digits.images.astype(np.uint8) * 15, labels=digits.target)
    else:
        path.write_bytes(decoded(body.data, "data"))
        check_unpacked(path)
    return {"data": str(path), "limit": body.limit or ROWS, "name": body.name}


def _searched(body: SearchBody, indexes: Mapping[str, str]) -> dict[str, Any]:
    if body.index not in indexes:
        raise unknown("index", body.index, indexes)
    if bool(body.query.strip()) == (body.image is not None):
        raise OptionError("give either words or a picture to search for")
    return {"index": indexes[body.index], "query": body.query, "k": body.k}


def _check_result(path: Path, factor: float) -> None:
    pixels = math.prod(image.read(path).size) * factor**2
    if pixels > RESULT:
        raise OptionError(f"the result would have more than {RESULT // 10**6} megapixels")


def _check_amount(body: CreateBody, texts: list[str]) -> None:
    if not texts or len(texts) * body.count * (body.best_of or 1) > MOST:
        raise OptionError(f"a request may generate 1 to {MOST} pictures, including all candidates")
    own = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if any(len(text) > LONGEST for text in [*texts, *own, body.negative_prompt, body.then or ""]):
        raise OptionError(f"a prompt may have up to {LONGEST} letters")
    if body.size and max(body.size) > LARGEST:
        raise OptionError(f"the server generates pictures of up to {LARGEST}x{LARGEST} pixels")


def _model(name: str, models: Mapping[str, str]) -> str:
    """The path, or the bundled name, of a model that the server offers."""
    if name not in models:
        raise unknown("model", name, models)
    return models[name]


def offered_name(path: str) -> str:
    """The name of a folder or file that the server offers."""
    return Path(path).name.removesuffix(SUFFIX)


def named(paths: list[str]) -> dict[str, str]:
    """Map the name of each folder or file (without ``.safetensors``) to its path.

    Raises
    ------
    OptionError
        If two paths have the same name.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = offered_name(path)
        if found.setdefault(name, path) != path:
            raise OptionError(
                f"{found[name]} and {path} have the same name; rename one, or leave one out"
            )
    return found


def offered_models(paths: list[str]) -> dict[str, str]:
    """The models of a server by name: the bundled models, and the models at `paths`."""
    return {name: name for name in bundled()} | named(paths)


def decoded(text: str, name: str) -> bytes:
    """The bytes of a file in base64, with or without ``data:...;base64,``.

    Line breaks and missing padding are accepted.

    Raises
    ------
    OptionError
    """
    if re.match(r"\w+://", text):
        raise OptionError(f"{name}: send files as base64; the server does not fetch URLs")
    packed = "".join(re.sub(r"^\s*data:[\w/+.;=-]*,", "", text).split())
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise OptionError(f"{name} is not valid base64") from None


def kept(given: str | bytes, folder: Path, name: str) -> Path:
    """Check a picture of a request, and store it as a file."""
    data = decoded(given, name) if isinstance(given, str) else given
    try:
        image.read(data)  # refuses data that are no picture, or too large a picture
    except PictureError as error:
        raise PictureError(f"{name}: {error}; send a picture in base64") from None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.picture"
    path.write_bytes(data)
    return path
