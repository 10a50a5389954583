"""sfumato: PCA, autoencoders and Stable Diffusion as one idea, the denoising autoencoder.

The main functions are `create`, `restore`, `reduce`, `index`, `search`, `explain` and `load`.

The public names are loaded when they are first used, so that ``import sfumato`` is quick.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Autoencoder": "estimators",
    "AutoencoderKL": "space.kl",
    "CLIPText": "condition.clip",
    "Condition": "types",
    "CreateOptions": "tasks.create.options",
    "Denoiser": "denoiser.denoiser",
    "LSA": "estimators",
    "Made": "tasks.create.run",
    "Model": "hub.load",
    "PCA": "estimators",
    "Photo": "data.photo",
    "ReduceOptions": "tasks.reduce.options",
    "RestoreOptions": "tasks.restore.options",
    "SfumatoError": "errors",
    "Step": "types",
    "UNet": "denoiser.unet",
    "consistent": "denoiser.consistency",
    "create": "tasks.create.run",
    "explain": "tasks.explain.experiments",
    "guided": "denoiser.guidance",
    "index": "tasks.search.index",
    "load": "hub.load",
    "parse": "corruption.base",
    "reduce": "tasks.reduce.compare",
    "restore": "tasks.restore.engines",
    "search": "tasks.search.query",
    "stream": "tasks.create.run",
    "trace": "tasks.explain.trace",
}
_RENAMED = {"walk": "stream"}  # old name -> new name
__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from sfumato.condition.clip import CLIPText as CLIPText
    from sfumato.corruption.base import parse as parse
    from sfumato.data.photo import Photo as Photo
    from sfumato.denoiser.consistency import consistent as consistent
    from sfumato.denoiser.denoiser import Denoiser as Denoiser
    from sfumato.denoiser.guidance import guided as guided
    from sfumato.denoiser.unet import UNet as UNet
    from sfumato.errors import SfumatoError as SfumatoError
    from sfumato.estimators import LSA as LSA
    from sfumato.estimators import PCA as PCA
    from sfumato.estimators import Autoencoder as Autoencoder
    from sfumato.hub.load import Model as Model
    from sfumato.hub.load import load as load
    from sfumato.space.kl import AutoencoderKL as AutoencoderKL
    from sfumato.tasks.create.options import CreateOptions as CreateOptions
    from sfumato.tasks.create.run import Made as Made
    from sfumato.tasks.create.run import create as create
    from sfumato.tasks.create.run import stream as stream
    from sfumato.tasks.explain.experiments import explain as explain
    from sfumato.tasks.explain.trace import trace as trace
    from sfumato.tasks.reduce.compare import reduce as reduce
    from sfumato.tasks.reduce.options import ReduceOptions as ReduceOptions
    from sfumato.tasks.restore.engines import restore as restore
    from sfumato.tasks.restore.options import RestoreOptions as RestoreOptions
    from sfumato.tasks.search.index import index as index
    from sfumato.tasks.search.query import search as search
    from sfumato.types import Condition as Condition
    from sfumato.types import Step as Step


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(
            f"sfumato.{name} is now sfumato.{_RENAMED[name]}", DeprecationWarning, stacklevel=2
        )
        name = _RENAMED[name]
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
