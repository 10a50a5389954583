"""The API of AUTOMATIC1111's web UI, as far as its clients use it.

Fields without a counterpart here are ignored, except ``enable_hr`` and ``alwayson_scripts``, which
are refused unless they are false or empty.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from sfumato import image, metadata
from sfumato.data.foreign import options_of
from sfumato.errors import OptionError
from sfumato.hub.catalog import bundled
from sfumato.sampler.registry import SAMPLERS, SCHEDULE_LABELS, labels_of
from sfumato.web.bodies import CreateBody, RestoreBody, decoded
from sfumato.web.jobs import finished, queue_of, submit
from sfumato.web.queue import Queue
from sfumato.web.store import Job
from sfumato.web.work import encoded

router = APIRouter()
TASKS = 1000  # largest number of clients' task ids that are remembered
HASH = re.compile(r" \[[0-9a-f]+\]$")  # the digest that A1111's clients add to a model's name
SAME = "Automatic"  # A1111's word for the model's own schedule


class TextToImage(BaseModel):
    """The supported fields of txt2img."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
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


class ImageToImage(TextToImage):
    """The supported fields of img2img."""

    init_images: list[str] = []
    denoising_strength: float = Field(0.75, ge=0, le=1)
    mask: str | None = None
    inpainting_mask_invert: int | bool = False


class Single(BaseModel):
    """The supported fields of extra-single-image."""

    model_config = ConfigDict(extra="ignore")

    image: str
    upscaling_resize: float = 2.0
    upscaler_1: str = "None"


class Info(BaseModel):
    """The fields of png-info."""

    image: str


@router.post("/txt2img")
async def txt2img(request: Request, asked: TextToImage) -> dict[str, Any]:
    """Generate pictures from a text."""
    return await _made(request, asked, _body(request, asked))


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
    return await _made(request, asked, _body(request, asked, **extra))


def _inverted(mask: str) -> str:
    return encoded(image.read_mask(decoded(mask, "mask")).point(lambda v: 255 - v))


def _body(request: Request, asked: TextToImage, **extra: Any) -> CreateBody:
    """Convert a request to ours; numbers that are meant for larger models stay unchanged."""
    if asked.enable_hr or asked.alwayson_scripts:
        raise OptionError("enable_hr and alwayson_scripts are not supported")
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
        "style": asked.styles[0] if asked.styles else None,
        "model": HASH.sub("", str(checkpoint or chosen(request))),
        "previews": 1,
    }
    if asked.width and asked.height:
        given["size"] = (asked.width, asked.height)
    known = {name: value for name, value in {**given, **extra}.items() if value is not None}
    if known.get("guidance_scale") == 1:
        known.pop("negative_prompt")
    return CreateBody(prompt=asked.prompt, **known)


async def _made(request: Request, asked: TextToImage, body: CreateBody) -> dict[str, Any]:
    job = await submit(request, body)
    tasks = request.app.state.__dict__.setdefault("tasks", {})
    if asked.force_task_id:
        tasks[asked.force_task_id] = job.id
        if len(tasks) > TASKS:
            tasks.pop(next(iter(tasks)))
    result = await finished(request, job)
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
    return {"images": pictures, "parameters": asked.model_dump(), "info": json.dumps(info)}


@router.post("/extra-single-image")
async def extra_single_image(request: Request, asked: Single) -> dict[str, Any]:
    """Enlarge a picture."""
    body = RestoreBody(image=asked.image, enlarge=asked.upscaling_resize)
    job = await submit(request, body)
    result = await finished(request, job)
    path = queue_of(request).store.files(job.id) / result["pictures"][0]["file"]
    return {
        "html_info": "",
        "image": base64.b64encode(await asyncio.to_thread(path.read_bytes)).decode(),
    }


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
    known = request.app.state.__dict__.get("tasks", {}).get(id_task)
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
    settings, texts = await asyncio.to_thread(metadata.read_all, decoded(asked.image, "image"))
    text = texts.get("parameters", "")
    return {
        "info": text,
        "items": {"parameters": text},
        "parameters": settings or options_of(texts),
    }


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


@router.get("/upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """The network that enlarges pictures."""
    return [
        {"name": "size", "model_name": "size", "model_path": None, "model_url": None, "scale": 4}
    ]


def chosen(request: Request) -> str:
    """The model last set through ``/options``; by default the first bundled one."""
    return str(request.app.state.__dict__.get("chosen", bundled()[0]))


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
