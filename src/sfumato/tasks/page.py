"""The page of an explanation: one HTML file with all numbers in it, which opens without a network.

Latents travel as 16-bit floats and are drawn in the browser by the linear decoder; what was decoded by the model travels as
pictures. The page's own text, style and program are in ``static/``.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import __version__
from sfumato.condition.text import PairEncoder, TextEncoder
from sfumato.hub.load import Model
from sfumato.runtime import atomic
from sfumato.tasks.explain import SMALL, Explained, Guess, Run
from sfumato.tasks.trace import Look

SETTINGS = "prompt styled negative_prompt seed candidate best_of sampler guidance_scale prior size".split()
STATIC = Path(__file__).parent / "static"


def write(found: Explained, path: Path) -> None:
    """Write the page."""
    parts = {name: (STATIC / f"explain.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    data = json.dumps(_data(found), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no tag can begin in it
    title = html.escape(" / ".join(run.trace.made.prompt or "no text" for run in found.runs))
    filled = {"TITLE": title, "STYLE": parts["css"], "DATA": data, "PROGRAM": parts["js"]}
    page = parts["html"]
    for name in ("TITLE", "STYLE", "PROGRAM", "DATA"):  # what the user wrote comes last and is not looked through
        page = page.replace(f"<!--{name}-->", filled[name], 1)
    with atomic(path) as scratch:
        scratch.write_text(page, "utf-8")


def _data(found: Explained) -> dict[str, Any]:
    matrix, share = found.linear
    return {
        "version": __version__,
        "model": _model(found.model),
        "linear": {"map": _floats(matrix, "<f4"), "rows": len(matrix), "share": share},
        "runs": [_run(run, found.model) for run in found.runs],
        "apart": found.apart.round(4).tolist(),
        "map": found.map.round(4).tolist(),
    }


def _model(model: Model) -> dict[str, Any]:
    """What is loaded, and how large its parts are."""
    text = model.text
    encoders = [text.first, text.second] if isinstance(text, PairEncoder) else [text] if isinstance(text, TextEncoder) else []
    return {
        "name": model.name,
        "sha256": model.sha256,
        "predicts": model.denoiser.kind,
        "channels": model.space.config.latent_channels,
        "factor": model.space.config.factor,
        "length": encoders[0].tokenizer.length if encoders else 0,
        "width": sum(e.clip.config.hidden_size for e in encoders),
        "parameters": {
            "text": sum(_count(e) for e in encoders),
            "network": _count(model.network),
            "space": _count(model.space),
        },
    }


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _run(run: Run, model: Model) -> dict[str, Any]:
    told = run.trace
    settings, looks = told.made.settings, told.looks
    return {
        **{name: settings[name] for name in SETTINGS},
        "source": settings.get("source"),
        "cut": told.made.cut,
        "picture": _picture(told.made.picture),
        "words": [w.__dict__ for w in told.words],
        "cosines": _cosines(run, model),
        "layers": list(told.layers),
        "attention": _attention(looks),
        "steps": [_step(look, run.decoded[k] if run.decoded else {}) for k, look in enumerate(looks)],
        "shape": list(looks[0].x.shape),
        "final": _floats(looks[-1].after),
        "guesses": [_guess(g) for g in run.guesses],
        "there": run.there and {"z": _floats(run.there.z), "again": _picture(run.there.again), "psnr": round(run.there.psnr, 2)},
    }


def _step(look: Look, decoded: dict[str, Image.Image]) -> dict[str, Any]:
    latents = {name: getattr(look, name) for name in ("x", "positive", "negative", "denoised")}
    return {
        "sigma": look.sigma,
        "seconds": look.seconds,
        "agreement": look.agreement,
        "norms": [round(float(look.noise(t).square().mean().sqrt()), 4) for t in (look.positive, look.negative) if t is not None],
        "latents": {name: _floats(t) for name, t in latents.items() if t is not None},
        "pictures": {name: _picture(p) for name, p in decoded.items()},
    }


def _guess(guess: Guess) -> dict[str, Any]:
    pictures = {name: _picture(p) for name, p in guess.decoded.items()}
    return {"sigma": guess.sigma, "error": guess.error, "noisy": _floats(guess.noisy), "guess": _floats(guess.guess), "pictures": pictures}


def _cosines(run: Run, model: Model) -> list[list[float]]:
    """Between the states of the prompt's tokens."""
    settings = run.trace.made.settings
    with torch.inference_mode():
        condition, _ = model.text([settings["styled"]], tuple(settings["size"]))
    if condition.tokens is None:
        return []
    states = torch.nn.functional.normalize(condition.tokens[0, [w.place for w in run.trace.words]].float().cpu(), dim=1)
    rows: list[list[float]] = (states @ states.T).numpy().round(3).tolist()
    return rows


def _attention(looks: tuple[Look, ...]) -> dict[str, Any] | None:
    """Maps (steps, layers, tokens + 1, a, b) in thousandths of the largest, with their sums; None without text."""
    maps = torch.stack([look.attention for look in looks]).numpy()
    if not maps.size:
        return None
    top = float(maps.max())
    return {"shape": list(maps.shape), "top": top, "maps": _encoded((maps / top * 65535).round().astype("<u2"))}


def _floats(x: Tensor, kind: str = "<f2") -> str:
    return _encoded(x.numpy().astype(kind))


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _picture(picture: Image.Image) -> str:
    buffer, kind = io.BytesIO(), "png" if max(picture.size) <= SMALL else "webp"
    picture.save(buffer, format=kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
