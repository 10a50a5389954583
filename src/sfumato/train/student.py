"""Distill a model's guided sampling into a LoRA that needs fewer steps than the model.

The teacher goes from noise to a picture in many steps, each with two network calls if it is guided.
Its trajectories are recorded at a few noise levels. The student learns to go from each of these
levels to the next in one step, with one network call (Salimans & Ho 2022, arXiv:2202.00512, section
3; guidance: Meng et al. 2023, arXiv:2210.03142, section 3.1). The trajectories start from noise, so
the student is trained on the kind of inputs that it gets in sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from sfumato import image
from sfumato.condition.text import TextEncoder
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.unet import UNet
from sfumato.errors import OptionError
from sfumato.hub.config import Defaults
from sfumato.hub.files import fingerprint
from sfumato.hub.load import STUDENT, Model
from sfumato.hub.lora import FILE, save_lora
from sfumato.hub.save import write_json
from sfumato.runtime import Streams, derive_seed, generator, seeded
from sfumato.sampler.ode import euler
from sfumato.sampler.schedule import initial
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import make_plan
from sfumato.train.diffusion import check_kept, load_to_train
from sfumato.train.latents import cached
from sfumato.train.loop import train
from sfumato.train.lora import add_low_rank, begin_at, changes_of
from sfumato.train.pack import Pictures, pack
from sfumato.train.plan import Event, Plan, identity, read_plan, skipped_lines
from sfumato.types import Condition, Progress

AT_ONCE = 32  # trajectories of the teacher in a batch
RANK = 32  # rank of the LoRA if the config gives none


class StudentJob:
    """Match the steps of a student to the trajectories of its teacher.

    Parameters
    ----------
    model : Model
        The teacher; its U-Net gets the low-rank updates that are trained.
    pictures : Pictures
        Pictures whose captions are the prompts.
    plan : Plan
        Config; ``student_steps``, ``trajectories`` and ``previews`` are used.
    folder : Path
        Folder of the recorded trajectories.
    seed : int

    Attributes
    ----------
    sigmas : Tensor, (steps + 1,)
        Noise levels of the student; the last one is 0.
    texts : list of str
        Prompt of each trajectory.
    """

    def __init__(
        self, model: Model, pictures: Pictures, plan: Plan, folder: Path, seed: int
    ) -> None:
        self.model, self.folder, self.prompts = model, folder, plan.previews
        assert isinstance(model.text, TextEncoder)
        self.encoder, self.teacher = model.text, make_plan(CreateOptions(best_of=1), model)
        teacher_sigmas, steps = self.teacher.sigmas(), plan.student_steps
        self.every, left = divmod(len(teacher_sigmas) - 1, steps)
        if left or not self.every:
            raise OptionError(
                f"the teacher's {len(teacher_sigmas) - 1} steps are no multiple of the student's "
                f"{steps} steps"
            )
        self.teacher_sigmas, self.sigmas = teacher_sigmas, teacher_sigmas[:: self.every]
        self.texts = drawn_texts(pictures, plan.trajectories, seed)
        self.seed, self.weights = seed, torch.ones(plan.trajectories)
        self.denoiser: Denoiser = model.denoiser

    @property
    def module(self) -> nn.Module:
        """The U-Net with the low-rank updates."""
        network: UNet = self.model.network
        return network

    def prepare(self, key: str) -> Iterator[Progress]:
        """Record the teacher's trajectories on disk; `key` identifies what they depend on."""
        (wide, tall), space = self.model.size, self.model.space.config
        self.shape = space.latent_channels, tall // space.factor, wide // space.factor
        starts = range(0, len(self.texts), AT_ONCE)
        self.states = torch.cat([self._read(self.texts[k : k + AT_ONCE]) for k in starts])
        shape = (len(self.texts), len(self.sigmas), *self.shape)
        path = self.folder / "trajectories.npy"
        for done in cached(path, key, shape, self._walks, AT_ONCE):
            yield Progress("trajectories of the teacher", done, len(self.texts))
        self.trajectories = np.load(path, mmap_mode="r")

    @torch.no_grad()
    def _walks(self, start: int, end: int) -> Tensor:
        """Latents (B, steps + 1, C, h, w) of some trajectories at the student's noise levels."""
        condition = self._condition(slice(start, end))
        empty = Condition(self._read([""] * (end - start)).to(self.model.device))
        plan, steps = self.teacher, len(self.teacher_sigmas) - 1
        noise = Streams(range(start, end)).like
        sampler = self.model.scheduler.bound_sampler(plan.sampler, noise, steps)
        x = self._noise(range(start, end))
        seen = [x]
        denoise = self.model.guided(condition, empty, plan.guidance_scale)
        for step in sampler(denoise, x, self.teacher_sigmas):
            if (step.index + 1) % self.every == 0:
                seen.append(step.x)
        return torch.stack(seen, dim=1)

    def _noise(self, rows: Sequence[int]) -> Tensor:
        """Initial noise of the trajectories."""
        noise = Streams([derive_seed(self.seed, row) for row in rows]).normal(
            (len(rows), *self.shape)
        )
        return initial(noise.to(self.model.device), float(self.teacher_sigmas[0]))

    def _read(self, texts: list[str]) -> Tensor:
        """States (B, T, D) of texts; texts longer than one chunk of tokens are truncated."""
        tokens = self.encoder(texts, (0, 0))[0].tokens
        assert tokens is not None
        states: Tensor = tokens[:, : self.encoder.tokenizer.length]
        return states

    def _condition(self, rows: slice | Tensor) -> Condition:
        return Condition(self.states[rows].to(self.model.device))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Squared error of the network's own output, at a random step of each trajectory."""
        device = self.model.device
        steps = torch.randint(len(self.sigmas) - 1, (len(rows),), generator=random)
        trajectories = torch.from_numpy(self.trajectories[rows.numpy()]).to(device, torch.float32)
        here = torch.arange(len(rows))
        x, ahead = trajectories[here, steps], trajectories[here, steps + 1]
        sigma, lower = self.sigmas[steps].to(device), self.sigmas[steps + 1].to(device)
        target = step_target(x, ahead, sigma, lower)
        condition = self._condition(rows)
        error = (self.denoiser(x, sigma, condition).float() - target).square().mean(dim=(1, 2, 3))
        loss: Tensor = (self.denoiser.weight(sigma) * error).mean()
        return loss

    def preview(self) -> Image.Image | None:
        """Return pictures that the student generates for the preview prompts."""
        if not self.prompts:
            return None
        rows = range(len(self.prompts))
        texts = [self.teacher.styled(prompt) for prompt in self.prompts]
        condition = self.model.text(texts, self.model.size)[0]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            out: Tensor = self.denoiser(x, sigma, condition)
            return out

        with torch.no_grad():
            *_, last = euler(denoise, self._noise(rows), self.sigmas)
            pixels = self.model.space.decode(last.x)
        made = image.to_pictures(pixels)
        return image.sheet(made, columns=min(8, len(made)), captions=self.prompts)


def step_target(x: Tensor, ahead: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """The denoised estimate with which an Euler step from `x` arrives at `ahead`.

    Parameters
    ----------
    x, ahead : Tensor, (B, C, h, w)
        States at the levels `sigma` and `lower`.
    sigma, lower : Tensor, (B,)

    Examples
    --------
    >>> x = torch.full((1, 1, 1, 1), 5.0)
    >>> step_target(x, 0.75 * x, torch.tensor([4.0]), torch.tensor([2.0])).item()
    2.5
    """
    ratio = (lower / sigma).to(x.dtype)[:, None, None, None]
    return (ahead - ratio * x) / (1 - ratio)


def drawn_texts(pictures: Pictures, count: int, seed: int) -> list[str]:
    """Sample captions of pictures, in proportion to the pictures' weights."""
    random = generator(seed, 0, "texts")
    weights = torch.from_numpy(pictures.weights).double()
    rows = torch.multinomial(weights, count, replacement=True, generator=random).tolist()
    chosen = torch.rand(count, generator=random).tolist()
    captions = [pictures.captions[row] for row in rows]
    return [all_of[int(u * len(all_of))] for all_of, u in zip(captions, chosen, strict=True)]


def train_student(
    data: Path,
    output: Path,
    model: str,
    config: Path | None,
    given: Mapping[str, Any],
    start: Path | None = None,
) -> Iterator[Event]:
    """Train the student of a model on captions.

    A LoRA in diffusers' format and the student's sampling defaults are written.

    Parameters
    ----------
    data : Path
        Captioned pictures, of which only the captions are used.
    output : Path
        Folder to write to; ``create --fast`` looks for the student in ``fast/`` of the model's
        folder.
    model : str
        The teacher: a bundled name, a folder or a checkpoint.
    config : Path, optional
    given : dict
        Settings of the command line.
    start : Path, optional
        Folder or file of a student of the same teacher, from which training continues.
    """
    plan, settings = read_plan("student", data, output, config, given)
    check_kept(plan.network)
    rank = plan.rank if "rank" in plan.model_fields_set else RANK
    teacher, encoder = load_to_train(model, settings.device)
    yield f"reading {data}"
    pictures = yield from pack(data, teacher.size[0], output / "cache", captions=True)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    job = StudentJob(teacher, pictures, plan, output / "cache", settings.seed)
    taught_by = fingerprint(teacher.network, encoder.clip)
    texts = hashlib.blake2b("\0".join(job.texts).encode(), digest_size=12).hexdigest()
    how = f"{job.teacher.sampler} {job.teacher.guidance_scale:g} {len(job.teacher_sigmas) - 1}"
    key = f"{taught_by} {texts} {how} {plan.student_steps} {settings.seed} derived seeds"
    yield from job.prepare(key)
    with seeded(settings.seed):
        add_low_rank(teacher.network, rank)
    if start is not None:
        begin_at(teacher.network, start)
    start_digest = fingerprint(teacher.network, encoder.clip) if start is not None else taught_by
    about = {"start": start_digest, "rank": rank, "teacher": how}
    about |= plan.model_dump(include={"student_steps", "trajectories"})
    known = identity(plan, pictures.digest, teacher.network.config, task="student", **about)
    yield from train(job, settings, output, known)
    save_lora(changes_of(teacher.network), output / FILE)
    defaults = Defaults(steps=plan.student_steps, guidance_scale=1.0)
    write_json(output / "sfumato.json", defaults.model_dump(exclude_defaults=True))
    if output.resolve() == teacher.path.resolve() / STUDENT:
        yield "use it: add --fast to sfumato create"
    else:
        yield f"use it: copy {output} to {STUDENT}/ in the model's folder; create then takes --fast"
