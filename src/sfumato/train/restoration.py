"""Train a restorer on photographs with synthetic corruptions, or on pairs of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.corruption.base import parse, parts_of
from sfumato.corruption.noise import FilmGrain, GaussianNoise, ShotNoise
from sfumato.corruption.scratch import Scratches
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import CELL, Restorer, RestorerConfig
from sfumato.errors import ConfigError, OptionError
from sfumato.hub.catalog import restorer_folder
from sfumato.hub.files import fingerprint, network_from
from sfumato.hub.save import save_network
from sfumato.runtime import seeded
from sfumato.train.finder import FinderJob
from sfumato.train.loop import train
from sfumato.train.loss import vivid
from sfumato.train.measurer import MeasurerJob
from sfumato.train.pack import digest_of
from sfumato.train.pairs import PairJob, paired, read_pairs
from sfumato.train.plan import (
    Event,
    Plan,
    checked,
    identity,
    read_plan,
    skipped_lines,
)
from sfumato.train.restorer import RestorerJob, read_photos
from sfumato.types import Reporting

PAIRS = "pairs"
NOISES = (GaussianNoise, ShotNoise, FilmGrain)  # kinds of noise that can be measured
# photos, a sentence for each one that was left out, and sampling weights (None: all are equal)
_Photos = tuple[list[NDArray[np.uint8]], list[str], list[float] | None]


def train_restorer(
    data: Path,
    output: Path,
    corruption: str | None,
    config: Path | None,
    given: Mapping[str, Any],
    start: Path | None = None,
) -> Iterator[Event]:
    """Train a restorer on corruptions (alternatives separated by ``|``) or on pairs of pictures.

    The network's config and weights are written. `start` can name a restorer (a folder or a bundled
    name). Training then continues from its network. If the config file describes another network,
    only weights of equal name and shape are copied. If the config file names a teacher, the target
    is a mean of its outputs and the clean crops.
    """
    plan, settings = read_plan("restorer", data, output, config, given)
    pretrained = _restorer(start) if start else None
    if pretrained is None or plan.network:
        network = checked(Restorer, RestorerConfig, plan.network)
    else:
        network = pretrained.config.model_copy(update={"corruption": ""})
    teacher = Denoiser(_restorer(plan.teacher).eval(), "direct") if plan.teacher else None
    asked = _asked(data, corruption or plan.corruption, network)
    _check_keys(plan, network, pairs=asked == PAIRS)
    yield f"reading {data}"
    photos, skipped, often = yield from _read(data, plan, asked)
    digest = digest_of(*photos, np.asarray(often or [], np.float64))
    with seeded(settings.seed):
        job = _job(network, plan, asked, teacher, photos, often)
    yield from skipped_lines(skipped)
    if pretrained is not None:
        yield _start_from(job.module, pretrained, str(start))
    about = {
        "corruption": asked,
        "start": start,
        **plan.model_dump(include={"longest", "gray", "turned", "vivid"}),
    }
    about["teacher"] = None if teacher is None else fingerprint(teacher)
    known = identity(plan, digest, network, task="restorer", **about)
    yield from train(job, settings, output, known)
    job.module.config = network.model_copy(update={"corruption": asked})
    save_network(job.module, output)


def _asked(data: Path, corruption: str, network: RestorerConfig) -> str:
    """The corruption that the restorer learns to undo; "pairs" if the data are pairs."""
    pairs = paired(data)
    if not corruption and not pairs:
        raise OptionError(
            "give a corruption to undo: --corruption 'noise:0-50 | mask:strokes', or give pairs in "
            "clean/ and dirty/"
        )
    if corruption and pairs:
        raise OptionError(
            f"{data} holds pairs, which need no other corruption; leave out {corruption}"
        )
    if pairs and network.finds:
        raise OptionError(
            '"finds": true needs drawn damage, whose place is known: give pictures and '
            "--corruption scratches:0.05 instead of pairs"
        )
    if pairs and network.measures:
        raise OptionError(
            '"measures": true needs noise of known strength: give pictures and --corruption '
            "noise:1-60 instead of pairs"
        )
    for alternative in corruption.split("|") if corruption else ():
        chosen = parse(alternative)  # a wrong corruption is an error before any photo is read
        first = parts_of(chosen)[:1]
        if network.finds and not (first and isinstance(first[0], Scratches)):
            raise OptionError(
                f'a corruption for a finder must begin with scratches; "{chosen}" does not'
            )
        if network.measures and not (first and isinstance(first[0], NOISES)):
            raise OptionError(
                "a corruption for a network that measures noise must begin with noise, shot or "
                f'grain; "{chosen}" does not'
            )
    return corruption or PAIRS


def _check_keys(plan: Plan, network: RestorerConfig, *, pairs: bool) -> None:
    """Refuse keys of the config file that have no effect on this kind of restorer."""
    if network.finds and network.measures:
        raise ConfigError('a network has either "finds" or "measures", not both')
    unused = {"vivid", "teacher"} if network.finds or network.measures else set()
    unused |= {"gray", "longest"} if pairs else set()
    if found := plan.model_fields_set & unused:
        kind = "a finder" if network.finds else "a noise meter" if network.measures else "pairs"
        raise ConfigError(f"{min(found)} has no effect on the training of {kind}; leave it out")
    if network.measures and (plan.size < CELL or plan.size % 2):
        raise ConfigError(f"size is {plan.size}; give an even number of at least {CELL}")


def _read(data: Path, plan: Plan, asked: str) -> Reporting[_Photos]:
    """Read the photos or pairs."""
    if asked == PAIRS:
        pairs, skipped = yield from read_pairs(data, plan.size)
        return pairs, skipped, None
    return (yield from read_photos(data, plan.size, plan.longest))


def _job(
    network: RestorerConfig,
    plan: Plan,
    asked: str,
    teacher: Denoiser | None,
    photos: list[NDArray[np.uint8]],
    often: list[float] | None,
) -> RestorerJob:
    how: dict[str, Any] = {"turned": plan.turned, "teacher": teacher}
    how["measure"] = vivid if plan.vivid else None
    if asked == PAIRS:
        return PairJob(network, photos, (), plan.size, **how)
    kind = FinderJob if network.finds else MeasurerJob if network.measures else RestorerJob
    return kind(network, photos, asked.split("|"), plan.size, plan.gray, often=often, **how)


def _start_from(network: Restorer, pretrained: Restorer, name: str) -> str:
    """Copy the layers of equal shape from a trained network; return a line that counts them."""
    fresh = {k: v.shape for k, v in network.state_dict().items()}
    shared = {k: v for k, v in pretrained.state_dict().items() if v.shape == fresh.get(k)}
    network.load_state_dict(shared, strict=False)
    return f"starts from {len(shared)} of the {len(fresh)} layers of {name}"


def _restorer(name: str | Path) -> Restorer:
    """Load a bundled or custom restorer."""
    return network_from(Restorer, RestorerConfig, restorer_folder(name)).channels_last()
