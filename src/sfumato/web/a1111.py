"""The API of AUTOMATIC1111's web UI, as far as its clients use it.

Fields without a counterpart here are ignored, except ``enable_hr``, ``alwayson_scripts`` and
``script_name``, which are refused unless they are false or empty.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from sfumato import image, metadata
from sfumato.data.foreign import options_of
from sfumato.data.memory import png_of
from sfumato.errors import OptionError, PictureError
from sfumato.runtime import json_safe, replace_surrogates
from sfumato.sampler.registry import SAMPLERS, SCHEDULE_LABELS, labels_of
from sfumato.web.bodies import CreateBody, Foreign, RestoreBody
from sfumato.web.jobs import finished, queue_of, submit
from sfumato.web.queue import Queue
from sfumato.web.requests import decoded
from sfumato.web.store import Job
from sfumato.web.work import encoded

router = APIRouter()
TASKS = 1000  # largest number of clients' task ids that are remembered
HASH = re.compile(r" \[[0-9a-f]+\]$")  # the digest that A1111's clients add to a model's name
SAME = "Automatic"  # A1111's word for the model's own schedule
LORA = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")
# our names of fields -> A1111's names, for error messages
THEIRS = {
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "strength": "denoising_strength",
    "source": "init_images",
    "enlarge": "upscaling_resize",
}
OURS = re.compile(rf"^({'|'.join(THEIRS)})\b")


class TextToImage(Foreign):
    """The supported fields of txt2img."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = []
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = Field(1, ge=1, le=64)
    n_iter: int = Field(1, ge=1, le=64)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    eta: float | None = None
    enable_hr: bool = False
    force_task_id: str | None = None
    override_settings: dict[str, Any] = {}
    alwayson_scripts: dict[str, Any] = {}
    script_name: str = ""


class ImageToImage(TextToImage):
    """The supported fields of img2img."""

    init_images: list[str] = []
    denoising_strength: float = Field(0.75, ge=0, le=1)
    mask: str | None = None
    inpainting_mask_invert: int | bool = False
    include_init_images: bool = False


class Single(Foreign):
    """The supported fields of extra-single-image."""

    image: str
    resize_mode: int = Field(0, ge=0, le=1)
    upscaling_resize: float = 2.0
    upscaling_resize_w: int = Field(512, ge=1, le=100_000)
    upscaling_resize_h: int = Field(512, ge=1, le=100_000)
    upscaling_crop: bool = True


class Info(Foreign):
    """The fields of a request for png-info: the settings in a picture."""

    image: str


@router.post("/txt2img")
async def txt2img(request: Request, asked: TextToImage) -> dict[str, Any]:
    """Generate pictures from a text."""
    return await _made(request, asked, {})


@router.post("/img2img")
async def img2img(request: Request, asked: ImageToImage) -> dict[str, Any]:
    """Change a picture, or inpaint the white part of a mask."""
    if not asked.init_images:
        raise OptionError("init_images has no picture")
    extra: dict[str, Any] = {"source": asked.init_images[0]}
    extra["strength"] = max(0.01, asked.denoising_strength)
    if asked.mask is not None:
        extra["mask"] = asked.mask
        if asked.inpainting_mask_invert:
            extra["mask"] = await asyncio.to_thread(_inverted, asked.mask)
    return await _made(request, asked, extra)


def _inverted(mask: str) -> str:
    return encoded(image.read_mask(decoded(mask, "mask")).point(lambda v: 255 - v))


def _body(request: Request, asked: TextToImage, **extra: Any) -> CreateBody:
    """Convert a request to a :class:`CreateBody`.

    Values such as steps and size are not adapted, even if the client chose them for larger models.
    """
    if asked.enable_hr or asked.alwayson_scripts or asked.script_name:
        raise OptionError("enable_hr, alwayson_scripts and script_name are not supported")
    if len(asked.styles) > 1:
        raise OptionError("styles: one style is supported")
    prompt, loras = _without_loras(asked.prompt)
    sampler = asked.sampler_name or asked.sampler_index
    checkpoint = asked.override_settings.get("sd_model_checkpoint")
    given: dict[str, Any] = {
        "count": asked.batch_size * asked.n_iter,
        "negative_prompt": asked.negative_prompt,
        "seed": None if asked.seed < 0 else asked.seed,
        "sampler": None if sampler in (None, "", SAME) else sampler,
        "schedule": asked.scheduler or None,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "eta": asked.eta or None,
        "style": next(iter(asked.styles), None),
        "model": HASH.sub("", str(checkpoint or chosen(request))),
        "loras": loras,
        "previews": 1,
    }
    if asked.width or asked.height:  # a missing side equals the other
        given["size"] = (asked.width or asked.height, asked.height or asked.width)
    known = {name: value for name, value in {**given, **extra}.items() if value is not None}
    if known.get("guidance_scale") == 1:
        known.pop("negative_prompt")
    return CreateBody(prompt=prompt, **known)


def _without_loras(prompt: str) -> tuple[str, list[str]]:
    """The prompt without its ``<lora:NAME:SCALE>``, and the LoRAs as ``NAME:SCALE``."""
    loras = []
    for name, scale in LORA.findall(prompt):
        try:
            loras.append(f"{name.strip()}:{float(scale or 1):.6f}")
        except ValueError:
            raise OptionError(f"<lora:{name}:{scale}>: the scale is no number") from None
    return (" ".join(LORA.sub(" ", prompt).split()) if loras else prompt), loras


@contextlib.contextmanager
def in_their_words() -> Iterator[None]:
    """Replace our field at the beginning of an error message by A1111's field.

    Examples
    --------
    >>> with in_their_words():
    ...     raise OptionError("guidance_scale=nan is not supported")
    Traceback (most recent call last):
    sfumato.errors.OptionError: cfg_scale=nan is not supported
    """
    try:
        yield
    except (OptionError, PictureError) as error:
        said = OURS.sub(lambda match: THEIRS[match[0]], str(error), count=1)
        raise OptionError(said) from None


async def _made(request: Request, asked: TextToImage, extra: dict[str, Any]) -> dict[str, Any]:
    with in_their_words():
        job = await submit(request, _body(request, asked, **extra))
    tasks = request.app.state.tasks
    if asked.force_task_id:
        tasks[asked.force_task_id] = job.id
        if len(tasks) > TASKS:
            tasks.pop(next(iter(tasks)))
    result = await finished(request, job, part=True)
    echoed = asked.model_dump()
    if isinstance(asked, ImageToImage) and not asked.include_init_images:
        echoed |= {"init_images": None, "mask": None}
    if not result["pictures"]:  # interrupted before the first one
        return {"images": [], "parameters": echoed, "info": json.dumps({"prompt": asked.prompt})}
    folder = queue_of(request).store.files(job.id)
    pictures, seeds, texts = [], [], []
    for picture in result["pictures"]:
        data = await asyncio.to_thread((folder / picture["file"]).read_bytes)
        pictures.append(base64.b64encode(data).decode())
        seeds.append(picture["seed"])
        texts.append(metadata.parameters(picture["settings"], *labels_of(picture["settings"])))
    first = result["pictures"][0]["settings"]
    info = {
        "prompt": first["prompt"],
        "all_prompts": [picture["prompt"] for picture in result["pictures"]],
        "negative_prompt": first["negative_prompt"],
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": first["size"][0],
        "height": first["size"][1],
        "sampler_name": labels_of(first)[0],
        "cfg_scale": first["guidance_scale"],
        "steps": first["steps"],
        "sd_model_name": first["model"],
        "sd_model_hash": first["model_sha256"][:10],
        "infotexts": texts,
        "job_timestamp": str(int(job.created)),
    }
    return {"images": pictures, "parameters": echoed, "info": json.dumps(info)}


@router.post("/extra-single-image")
async def extra_single_image(request: Request, asked: Single) -> dict[str, Any]:
    """Enlarge a picture with the network that enlarges photos, whatever upscaler is named."""
    factor, data = asked.upscaling_resize, decoded(asked.image, "image")
    given = await asyncio.to_thread(image.read, data)
    size = asked.upscaling_resize_w, asked.upscaling_resize_h
    if asked.resize_mode == 1:
        factor = max(wanted / side for wanted, side in zip(size, given.size, strict=True))
    if factor == 1:
        data = await asyncio.to_thread(png_of, data)
    else:
        with in_their_words():
            job = await submit(request, RestoreBody(image=asked.image, enlarge=factor))
        result = await finished(request, job)
        path = queue_of(request).store.files(job.id) / result["pictures"][0]["file"]
        data = await asyncio.to_thread(path.read_bytes)
    if asked.resize_mode == 1 and asked.upscaling_crop:
        data = await asyncio.to_thread(_cropped, data, size)
    return {"html_info": "", "image": base64.b64encode(data).decode()}


def _current(queue: Queue) -> Job | None:
    """The running job, or None."""
    for identity in queue.running:
        if (job := queue.store.get(identity)) is not None:
            return job
    return None


@router.get("/progress")
async def progress(
    request: Request, skip_current_image: bool = False, id_task: str | None = None
) -> dict[str, Any]:
    """Progress of the running job, or of the job with a client's task id."""
    queue = queue_of(request)
    known = request.app.state.tasks.get(id_task)
    job = queue.store.get(known) if known else _current(queue)
    idle: dict[str, Any] = {"done": 0, "total": 1, "eta": None}
    progress = queue.progress(job) if job else idle
    running = queue.running.get(job.id) if job else None
    state = {
        "skipped": False,
        "interrupted": bool(job and job.status == "cancelled"),
        "job": job.id if job else "",
        "job_count": queue.store.count("queued") + len(queue.running),
        "job_timestamp": str(int(job.created)) if job else "0",
        "job_no": 0,
        "sampling_step": progress["done"],
        "sampling_steps": progress["total"],
    }
    shown = running.preview if running and not skip_current_image else None
    return {
        "progress": progress["done"] / progress["total"],
        "eta_relative": progress["eta"] or 0.0,
        "state": state,
        "current_image": shown,
        "textinfo": None,
    }


@router.post("/interrupt")
@router.post("/skip")
async def interrupt(request: Request) -> dict[str, Any]:
    """Cancel all running jobs."""
    queue = queue_of(request)
    for identity in list(queue.running):
        queue.cancel(identity)
    return {}


@router.post("/png-info")
async def png_info(asked: Info) -> dict[str, Any]:
    """Read the generation settings that a picture contains."""

    def read() -> dict[str, Any]:
        settings, texts = metadata.read_all(decoded(asked.image, "image"))
        text = replace_surrogates(texts.get("parameters", ""))
        try:
            found = json_safe(settings or options_of(texts))
        except RecursionError:  # a stranger's lists in lists
            found = {}
        return {"info": text, "items": {"parameters": text}, "parameters": found}

    return await asyncio.to_thread(read)


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    """The samplers, by A1111's names."""
    return [
        {"name": entry.label, "aliases": [name], "options": {}} for name, entry in SAMPLERS.items()
    ]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """The schedules."""
    return [
        {
            "name": "automatic" if name == "auto" else name,
            "label": label,
            "aliases": None,
            "default_rho": -1,
            "need_inner_model": False,
        }
        for name, label in SCHEDULE_LABELS.items()
    ]


@router.get("/sd-models")
async def sd_models(request: Request) -> list[dict[str, Any]]:
    """The models that the server offers."""
    return [
        {
            "title": name,
            "model_name": name,
            "hash": None,
            "sha256": None,
            "filename": name,
            "config": None,
        }
        for name in request.app.state.offered.models
    ]


def _cropped(data: bytes, size: tuple[int, int]) -> bytes:
    """Crop a picture file to a size; transparency stays."""
    return png_of(image.crop_to(image.read_stored(data)[0], size))


@router.get("/upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """The network that enlarges pictures."""
    return [
        {"name": "size", "model_name": "size", "model_path": None, "model_url": None, "scale": 4}
    ]


def chosen(request: Request) -> str:
    """The model last set through ``/options``; by default the first bundled one."""
    return str(request.app.state.chosen)


@router.get("/options")
async def options(request: Request) -> dict[str, Any]:
    """The only option: the model."""
    return {"sd_model_checkpoint": chosen(request), "samples_format": "png"}


@router.post("/options")
async def set_options(request: Request, given: dict[str, Any]) -> dict[str, Any]:
    """Choose the model for requests that name no model."""
    name = HASH.sub("", str(given.get("sd_model_checkpoint", chosen(request))))
    if name not in request.app.state.offered.models:
        raise OptionError(f"the server has no model {name[:80]}")
    request.app.state.chosen = name
    return {}
