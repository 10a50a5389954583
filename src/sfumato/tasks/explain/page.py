"""Write an explanation as one HTML file that contains all its data and opens offline.

Latents are stored as 16-bit floats, and the browser decodes them with the linear decoder; pictures
that the model decoded are stored as pictures. All data form one compressed archive. The text, style
and script of the page are in ``static/``.
"""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import __version__
from sfumato.condition.text import transformers
from sfumato.hub.load import Model
from sfumato.runtime import atomic
from sfumato.tasks.explain.compared import SMALL, Compared, DenoisingProbe, Reconstruction, Run
from sfumato.tasks.explain.trace import StepTrace, Word

SETTINGS = (
    "prompt styled negative_prompt seed candidate best_of sampler guidance_scale size source "
    "then then_step then_guidance_scale"
).split()
# number of tokens with their own map on the page; the maps of later tokens are added to the map of
# the padding
KEPT = 80
STATIC = Path(__file__).parent / "static"
Ref = tuple[str, int, int]  # kind, offset and length in bytes of an entry of the archive


def write(found: Compared, path: Path) -> None:
    """Write the page."""
    page, style, program = (
        (STATIC / f"explain.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    title = html.escape(" / ".join(run.trace.made.prompt or "no text" for run in found.runs))
    # the title is inserted last, since the user's words could contain another placeholder
    for name, text in (
        ("STYLE", style),
        ("PROGRAM", program),
        ("DATA", packed(found)),
        ("TITLE", title),
    ):
        page = page.replace(f"<!--{name}-->", text, 1)
    with atomic(path) as scratch:
        scratch.write_text(page, "utf-8")


def packed(found: Compared) -> str:
    """Pack the data of the page with gzip, in base64.

    The data consist of the length of a JSON text (4 bytes), the text, and the arrays and pictures
    to which the text refers.
    """
    archive = _Archive()
    text = json.dumps(archive.data(found), separators=(",", ":")).encode()
    whole = len(text).to_bytes(4, "little") + text + b"".join(archive.parts)
    return base64.b64encode(gzip.compress(whole, 9, mtime=0)).decode()


class _Archive:
    """Collects arrays and pictures, to which the JSON text refers by offset."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def put(self, kind: str, held: bytes) -> Ref:
        ref = kind, self.size, len(held)
        self.parts.append(held)
        self.size += len(held)
        return ref

    def array(self, values: NDArray[Any]) -> Ref:
        return self.put(values.dtype.str[1:], np.ascontiguousarray(values).tobytes())

    def latent(self, x: Tensor) -> Ref:
        return self.array(x.numpy().astype("<f2"))

    def picture(self, picture: Image.Image) -> Ref:
        buffer, kind = io.BytesIO(), "png" if max(picture.size) <= SMALL else "webp"
        picture.save(buffer, format=kind, quality=75)
        return self.put(f"image/{kind}", buffer.getvalue())

    def data(self, found: Compared) -> dict[str, Any]:
        matrix, share = found.linear
        return {
            "version": __version__,
            "model": _model(found.model),
            "linear": {"map": self.array(matrix.numpy().astype("<f4")), "share": share},
            "runs": [self.run(run, found.model) for run in found.runs],
            "apart": found.apart.round(4).tolist(),
            "map": [way.round(4).tolist() for way in found.map],
        }

    def run(self, run: Run, model: Model) -> dict[str, Any]:
        trace, settings = run.trace, run.trace.made.settings
        return {
            **{name: settings.get(name) for name in SETTINGS},
            "cut": trace.made.cut,
            "label": run.label or settings["prompt"],
            "picture": self.picture(trace.made.picture),
            "words": [w.__dict__ for w in trace.words],
            "cosines": _cosines(run, model, settings["styled"], trace.words),
            "then_words": [w.__dict__ for w in trace.then_words],
            "then_cosines": _cosines(
                run, model, settings.get("then_styled") or "", trace.then_words
            ),
            "layers": list(trace.layers),
            "attention": self.attention(trace.steps),
            "steps": [
                self.step(step, trace.scale, run.decoded[k] if run.decoded else {})
                for k, step in enumerate(trace.steps)
            ],
            "shape": list(trace.steps[0].x.shape),
            "end": settings["sigmas"][-1],
            "final": self.latent(trace.steps[-1].after),
            "noise": self.latent(
                (run.guesses[0].noisy - trace.steps[-1].after) / run.guesses[0].sigma
            )
            if run.guesses
            else None,
            "guesses": [self.guess(g) for g in run.guesses],
            "reconstruction": run.reconstruction and self.reconstructed(run.reconstruction),
        }

    def step(
        self, step: StepTrace, scale: float, decoded: dict[str, Image.Image]
    ) -> dict[str, Any]:
        latents = {name: getattr(step, name) for name in ("x", "positive", "negative", "denoised")}
        mixed = (
            step.denoised
            if step.negative is None
            else step.negative + scale * (step.positive - step.negative)
        )
        if abs(scale - 1) >= 0.5 and torch.allclose(mixed, step.denoised, atol=1e-3):
            latents["negative"] = None  # the page computes it from the other latents
        return {
            "sigma": step.sigma,
            "guided": step.negative is not None,
            "seconds": round(step.seconds, 5),
            "guidance_cosine": round(step.guidance_cosine, 6),
            "change": round(step.change, 6),
            "latents": {name: self.latent(x) for name, x in latents.items() if x is not None},
            "pictures": {name: self.picture(p) for name, p in decoded.items()},
        }

    def guess(self, guess: DenoisingProbe) -> dict[str, Any]:
        pictures = {name: self.picture(p) for name, p in guess.decoded.items()}
        return {
            "sigma": guess.sigma,
            "error": guess.error,
            "guess": self.latent(guess.guess),
            "pictures": pictures,
        }

    def reconstructed(self, found: Reconstruction) -> dict[str, Any]:
        return {
            "z": self.latent(found.z),
            "shape": list(found.z.shape),
            "picture": self.picture(found.picture),
            "psnr": round(found.psnr, 2),
        }

    def attention(self, steps: tuple[StepTrace, ...]) -> dict[str, Any] | None:
        """Return the attention maps (steps, layers, tokens + 1, a, b) of a x b positions.

        The last map of each layer belongs to all padding tokens. If the maps of each head were
        recorded, they are returned, too. The result is None for a model without text.
        """
        whole = torch.stack([step.attention for step in steps])
        if not whole.numel():
            return None
        heads = torch.stack([step.heads for step in steps])
        return self.maps(whole) | {"heads": self.maps(heads) if heads.numel() else None}

    def maps(self, whole: Tensor) -> dict[str, Any]:
        """Store maps (..., tokens + 1, a, b) as bytes; all but the first `KEPT` are summed to one.

        The bytes are the square roots of the weights, scaled so that the largest is 255.
        """
        kept = min(KEPT, whole.shape[-3] - 1)
        behind = whole[..., kept:, :, :].sum(dim=-3, keepdim=True)
        values = torch.cat([whole[..., :kept, :, :], behind], dim=-3).clamp_min(0).sqrt().numpy()
        top = float(values.max())
        return {
            "shape": list(values.shape),
            "top": top,
            "maps": self.array((values / top * 255).round().astype(np.uint8)),
        }


def _model(model: Model) -> dict[str, Any]:
    """Facts about the model for the page: name, digest, and sizes of its parts."""
    encoders = transformers(model.text)
    return {
        "name": model.name,
        "sha256": model.sha256,
        "predicts": model.denoiser.kind,
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


def _cosines(run: Run, model: Model, text: str, words: tuple[Word, ...]) -> list[list[float]]:
    """Cosines between the text states of the first tokens of a text."""
    with torch.inference_mode():
        condition, _ = model.text([text], tuple(run.trace.made.settings["size"]))
    if condition.tokens is None:
        return []
    states = torch.nn.functional.normalize(
        condition.tokens[0, [w.place for w in words[:KEPT]]].float().cpu(), dim=1
    )
    return [[round(float(v), 3) for v in row] for row in states @ states.T]
