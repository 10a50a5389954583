"""The trained networks that restore photos."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sfumato.corruption.base import parse, parts_of
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import (
    NoiseMaps,
    Restorer,
    RestorerConfig,
    restorer_planes,
    self_ensemble,
)
from sfumato.errors import OptionError
from sfumato.hub.catalog import restorer_folder
from sfumato.hub.files import digest, network_from, read_json, weight_file
from sfumato.runtime import autocast, choose_device, choose_dtype
from sfumato.types import Condition

LARGE = 60 / 127.5  # a pixel that a repairing network changes by this much counts fully as damage
# views of a picture for a finder (a network that finds damage): quarter turns, and whether mirrored
FINDING = [(0, False), (1, True), (2, False), (3, True)]


# the kinds of damage that each bundled network undoes
UNDOES: dict[str, set[str]] = {
    "noise": {"denoise"},
    "gaps": {"fill"},
    "size": {"enlarge"},
    "photos": {"denoise", "dejpeg", "fill", "enlarge"},
    "tints": {"colorize"},
    "scratches": set(),
    "noise_level": set(),
}
# what networks are for that undo no damage
ELSE = {"scratches": "finding scratches", "noise_level": "measuring noise"}


# the kind of damage that each corruption does
DAMAGE = {
    **dict.fromkeys(("noise", "grain", "shot", "salt"), "denoise"),
    **dict.fromkeys(("mask", "scratches"), "fill"),
    "jpeg": "dejpeg",
    "down": "enlarge",
    "gray": "colorize",
}


def check_undoes(model: str | None, damage: set[str]) -> None:
    """Refuse a network for damage that it was not trained to undo.

    Raises
    ------
    OptionError
    """
    if model is None:
        return
    if model in UNDOES:
        known, name, able = UNDOES[model], f"the bundled network {model}", UNDOES[model]
    else:
        config = read_json(restorer_folder(model) / "config.json")
        if config.get("measures"):
            raise OptionError(
                f"{model} measures noise, and restores no pictures; leave --model out"
            )
        corruption = str(config.get("corruption", ""))
        if corruption in ("", "pairs"):
            return
        parts = [part for one in corruption.split("|") for part in parts_of(parse(one.strip()))]
        names = {str(part).partition(":")[0] for part in parts}
        able = {DAMAGE[name] for name in names if name in DAMAGE}
        known, name = able | {"clean"}, f"{model} was trained to undo {corruption}; it"
    if wrong := damage - known:
        kinds = ", ".join(f"--{kind}" for kind in sorted(able)) or ELSE[model]
        raise OptionError(f"{name} is for {kinds}, not for --{min(wrong)}; leave --model out")


class RestorationNetworks:
    """The networks that restore photos, each loaded when it is first needed.

    ``noise`` only removes noise, ``gaps`` only fills holes, and ``size`` only enlarges. ``photos``
    undoes JPEG artifacts (and noise under them), ``tints`` estimates color, ``scratches`` finds
    scratches, and ``noise_level`` measures noise.

    Parameters
    ----------
    folder : Path, optional
        A custom restorer, written by ``sfumato train restorer``, or the name of a bundled restorer;
        it is used for all kinds of damage. Noise is still measured by ``noise_level``.
    device : str
    dtype : str
        Dtype of the networks' computations; the pictures that they correct stay in float32.
    repairs : bool
        If `folder` is given, still use the bundled networks to find scratches and to estimate
        color. Needed for a custom network that was trained on pairs of dirty and clean pictures.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        *,
        repairs: bool = False,
    ) -> None:
        self.own = None if folder is None else restorer_folder(folder)
        self.device = choose_device(device)
        self.repairs = repairs
        self.dtype = choose_dtype(dtype, self.device)
        self.loaded: dict[Path, Denoiser] = {}

    @property
    def has_specialists(self) -> bool:
        """Whether the bundled networks are used: most kinds of damage have their own network."""
        return self.own is None

    def sha256(self, part: str) -> str:
        """SHA-256 of the weights of the network for `part`, such as ``noise`` or ``tints``."""
        return digest(weight_file(self._folder(part)))

    def _folder(self, name: str) -> Path:
        others = self.repairs and name in ("scratches", "tints")
        if self.own is None or others or name == "noise_level":
            return restorer_folder(name)
        return self.own

    def _denoiser(self, name: str) -> Denoiser:
        folder = self._folder(name)
        if folder not in self.loaded:
            network = (
                network_from(Restorer, RestorerConfig, folder)
                .eval()
                .to(self.device)
                .channels_last()
            )
            self.loaded[folder] = Denoiser(network, "direct")
        return self.loaded[folder]

    @torch.inference_mode()
    def repair(
        self, y: Tensor, planes: Tensor, sigma: float | Tensor, only: str | None = None
    ) -> Tensor:
        """Apply the network `only`, by default ``photos``, to a picture (1, 3, h, w) in [-1, 1].

        Takes the planes (1, 4, h, w) of :func:`restorer_planes` and the noise level for values in
        [-1, 1]: one number, or one per pixel (1, 1, h, w). Returns (1, 3, h, w), or (1, 1, h, w)
        from a finder, a network that outputs a map of the damage.
        """
        x = y.to(self.device)
        level = sigma.to(x) if isinstance(sigma, Tensor) else x.new_full((1,), sigma)
        denoiser, condition = self._denoiser(only or "photos"), Condition(planes=planes.to(x))
        with autocast(self.device, self.dtype):
            made: Tensor = denoiser(x, level, condition)
        return made.float().cpu()

    def damage(self, y: Tensor) -> Tensor:
        """Picture (1, 3, h, w) in [-1, 1] -> the share of each pixel that is damage, (1, 1, h, w).

        The network is usually a finder, which outputs a map of the damage. A finder is applied
        twice. For the second pass, the damage found by the first pass is marked as unknown in the
        planes, and the map is averaged over four rotated or mirrored views of the picture. If the
        network outputs a repaired picture instead, the pixels that it changes much count as damage.
        """

        def look(y: Tensor, planes: Tensor) -> Tensor:
            return self.repair(y, planes, 0.0, "scratches")

        made = look(y, restorer_planes(torch.ones_like(y[:, :1])))
        if made.shape[1] == 1:
            again = self_ensemble(look, FINDING, y, restorer_planes((1 - made) / 2))
            return (again + 1) / 2
        return ((made - y).abs().amax(dim=1, keepdim=True) / LARGE).clamp_max(1)

    def noise_levels(self, y: Tensor) -> NoiseMaps:
        """Picture (1, 3, h, w) in [-1, 1] -> the noise level of each pixel."""
        planes = restorer_planes(torch.ones_like(y[:, :1]))
        return NoiseMaps.of(self.repair(y, planes, 0.0, "noise_level"))

    def colors(self, gray: Tensor) -> Tensor:
        """Luminance (1, 1, h, w) in [-1, 1] -> RGB values minus luminance, (1, 3, h, w)."""
        x = gray.expand(-1, 3, -1, -1)
        return self.repair(x, restorer_planes(torch.ones_like(gray), color=0.0), 0.0, "tints") - x
