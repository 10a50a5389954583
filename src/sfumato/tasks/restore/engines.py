"""Restore a photo with the engine that the options name: networks, patches or a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from sfumato.data.photo import Photo, photo_of
from sfumato.errors import OptionError
from sfumato.hub.catalog import is_model
from sfumato.hub.load import load
from sfumato.tasks.restore.diffusion import diffuse
from sfumato.tasks.restore.enlarge import enlarge
from sfumato.tasks.restore.networks import RestorationNetworks, check_undoes
from sfumato.tasks.restore.options import OF_DIFFUSION, RestoreOptions
from sfumato.tasks.restore.run import Restored, stream
from sfumato.tasks.restore.stage import Engine
from sfumato.types import Progress

Restore = Callable[[Photo], Iterator[Progress | Restored]]


def restore(
    photo: Photo | Image.Image | NDArray[Any] | Path | str,
    options: RestoreOptions,
    networks: Engine | None = None,
) -> Restored:
    """Restore a photo according to the options.

    Parameters
    ----------
    photo : path, Pillow picture, array or Photo
        An array holds uint8 or uint16 values, truth values, or floats of 0 to 1; its shape is
        (H, W) or (H, W, C) with 1, 3 or 4 channels.
    options : RestoreOptions
    networks : Engine, optional
        Restoration networks, to use them for more than one photo; by default, the networks or the
        diffusion model that the options name are loaded.

    Raises
    ------
    OptionError
        For more than one sample (each seed gives another result), for a mask that does not fit or
        has no white or only white pixels, for a box or hint outside the picture, for a color that
        no pixel has, for ``dejpeg="auto"`` if the file is not a JPEG, and for `clean` without a
        model.
    PictureError
        If the file cannot be read.
    ModelError
        If ``options.model`` cannot be loaded.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(128, 20, (32, 48, 3))
    >>> noisy = Photo(noise.clip(0, 255).astype(np.uint8))
    >>> made = restore(noisy, RestoreOptions(denoise="auto"))
    >>> bool(made.photo.values.std() < 10), 15 < made.report["sigma"] < 25
    (True, True)
    """
    options = RestoreOptions.of(options)
    if options.samples > 1:
        raise OptionError("restore returns one result; give another seed for another result")
    given = photo_of(photo)
    events = engine(options)(given) if networks is None else stream(given, options, networks)
    *_, last = events
    assert isinstance(last, Restored)
    return last


def engine(options: RestoreOptions) -> Restore:
    """The function that restores a photo; restoration networks are loaded when first needed."""
    named = options.engine == "auto" and options.model is not None and is_model(options.model)
    if options.engine == "diffusion" or named:
        model = load(options.model or "icons", options.device, options.dtype)
        if options.damage == {"enlarge"} and model.upscaler is not None:
            upscaler = model.upscaler
            return lambda photo: enlarge(photo, options, model, upscaler)
        networks = RestorationNetworks(None, options.device, options.dtype)
        return lambda photo: diffuse(photo, options, model, networks)
    if options.model_fields_set & OF_DIFFUSION:
        raise OptionError(f"{options.model} is not a text-to-image model, so it takes no --prompt")
    if options.clean and options.model is None:
        raise OptionError("--clean needs --model, a folder written by sfumato train restorer")
    check_undoes(options.model, options.damage)
    networks = RestorationNetworks(
        options.model, options.device, options.dtype, repairs=options.clean
    )
    return lambda photo: stream(photo, options, networks)
