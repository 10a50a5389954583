"""The trained networks that restore photos."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import (
    Restorer,
    RestorerConfig,
    restorer_planes,
    self_ensemble,
)
from sfumato.hub.files import digest, network_from, weight_file
from sfumato.hub.load import restorer_folder
from sfumato.runtime import autocast, choose_device, choose_dtype
from sfumato.types import Condition

LARGE = 60 / 127.5  # a change that a repairing network surely means
# views of a picture in which a finder looks for damage: quarter turns, and whether mirrored
FINDING = [(0, False), (1, True), (2, False), (3, True)]


class RestorationNetworks:
    """The restorers: ``noise``, ``gaps`` and ``size`` for these, ``photos`` for JPEG (and noise
    under it), ``tints`` for color, and ``scratches`` to find them. Each is read when it is first
    needed.

    Parameters
    ----------
    folder : Path, optional
        A restorer of one's own, written by ``sfumato train restorer``, or one bundled name; it then
        does all.
    device : str
    dtype : str
        In which changes are computed; what they are added to stays in float32.
    repairs : bool
        Leave finding scratches and giving color to the bundled ones: for a network of one's own
        that was trained on pairs.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        *,
        repairs: bool = False,
    ) -> None:
        self.own, self.device, self.repairs = (
            None if folder is None else restorer_folder(folder),
            choose_device(device),
            repairs,
        )
        self.dtype = choose_dtype(dtype, self.device)
        self.read: dict[Path, Denoiser] = {}

    @property
    def has_specialists(self) -> bool:
        """Whether there is a network for each kind of damage."""
        return self.own is None

    def sha256(self, part: str) -> str:
        """Digest of the weights that undo a part."""
        return digest(weight_file(self._folder(part)))

    def _folder(self, name: str) -> Path:
        others = self.repairs and name in ("scratches", "tints")
        return restorer_folder(name) if self.own is None or others else self.own

    def _denoiser(self, name: str) -> Denoiser:
        folder = self._folder(name)
        if folder not in self.read:
            network = (
                network_from(Restorer, RestorerConfig, folder)
                .eval()
                .to(self.device)
                .channels_last()
            )
            self.read[folder] = Denoiser(network, "direct")
        return self.read[folder]

    @torch.inference_mode()
    def repair(
        self, y: Tensor, planes: Tensor, sigma: float | Tensor, only: str | None = None
    ) -> Tensor:
        """Damaged picture (1, 3, h, w) in [-1, 1], planes (1, 4, h, w), noise level in that frame,
        one or of each pixel (1, 1, h, w) -> the answer of the network `only`, ``photos`` by
        default: (1, 3, h, w) but for a finder.
        """
        x = y.to(self.device)
        level = sigma.to(x) if isinstance(sigma, Tensor) else x.new_full((1,), sigma)
        denoiser, condition = self._denoiser(only or "photos"), Condition(planes=planes.to(x))
        with autocast(self.device, self.dtype):
            made: Tensor = denoiser(x, level, condition)
        return made.float().cpu()

    def damage(self, y: Tensor) -> Tensor:
        """Picture (1, 3, h, w) in [-1, 1] -> the share of each pixel that is damage, (1, 1, h, w).

        A finder says it, at its second look, at which it knows what it found at the first: the mean
        over four views of the picture. Of a network that repairs, it is what it wants to change
        much.
        """

        def look(y: Tensor, planes: Tensor) -> Tensor:
            return self.repair(y, planes, 0.0, "scratches")

        made = look(y, restorer_planes(torch.ones_like(y[:, :1])))
        if made.shape[1] == 1:
            again = self_ensemble(look, FINDING, y, restorer_planes((1 - made) / 2))
            return (again + 1) / 2
        return ((made - y).abs().amax(dim=1, keepdim=True) / LARGE).clamp_max(1)

    def colors(self, gray: Tensor) -> Tensor:
        """Luminance (1, 1, h, w) in [-1, 1] -> chroma (1, 3, h, w)."""
        x = gray.expand(-1, 3, -1, -1)
        return self.repair(x, restorer_planes(torch.ones_like(gray), color=0.0), 0.0, "tints") - x
