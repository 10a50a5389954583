"""Autoencoders as a scikit-learn estimator."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from sfumato.errors import OptionError
from sfumato.estimators.base import Reducer, Rows, dense
from sfumato.runtime import DTYPES, choose_device, seeded
from sfumato.space.autoencoder import Autoencoder as AutoencoderSpace
from sfumato.space.autoencoder import ConvAutoencoder, ConvConfig, DeepAutoencoder, DeepConfig
from sfumato.train.codes import AutoencoderFit
from sfumato.train.loop import TrainProgress, train
from sfumato.train.settings import TrainSettings


class Autoencoder(Reducer):
    """A deep or convolutional autoencoder; with a corruption, a denoising autoencoder.

    Parameters
    ----------
    n_components : int
        Code length.
    kind : {"deep", "conv"}
        "deep": fully connected layers; "conv": convolutions over pictures of `shape`.
    layers : tuple of int
        For "deep", the hidden sizes of the encoder; for "conv", the channels after each halving of
        the picture.
    shape : (C, H, W), optional
        Shape (C, H, W) of the picture that a row holds; by default (1, 1, d).
    loss : {"squared", "cross_entropy"}
        Cross-entropy is for values with a lower and an upper bound, such as brightness.
    corruption : str
        Corruption in string form (see :func:`sfumato.parse`), such as "noise:25" or "mask:0.3". It
        is applied to values that are scaled to [-1, 1] by the range of the data.
    epochs : int
        Number of passes over the N rows: training runs for ``epochs * ceil(N / batch_size)``
        batches. The rows of each batch are sampled at random, with replacement.
    batch_size : int or "auto"
        "auto" is a fiftieth of the number of rows, but at least 16 and at most 256.
    learning_rate : float
    weight_decay : float
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Dtype of mixed-precision training. "auto" is bfloat16 on devices with native bfloat16, else
        float32. Codes are computed in the precision of the rows.
    device : {"auto", "cpu", "cuda", "mps"}
        "auto" is CUDA if available, else the CPU.
    random_state : int, RandomState or None
    warm_start : bool
        Whether :meth:`fit` continues from the current weights.
    verbose : bool
        Print a line of progress per epoch.

    Notes
    -----
    Training sets glibc's ``mallopt`` so that the process keeps freed memory for reuse, which saves
    time.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> model = Autoencoder(2, layers=(16,), epochs=2, random_state=0).fit(rows)
    >>> model.transform(rows).shape
    (64, 2)
    """

    accepts_sparse: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "kind": [StrOptions({"deep", "conv"})],
        "layers": [tuple, list],
        "shape": [tuple, list, None],
        "loss": [StrOptions({"squared", "cross_entropy"})],
        "corruption": [str],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dtype": [StrOptions({"auto", *DTYPES})],
        "device": [str],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        kind: str = "deep",
        layers: tuple[int, ...] = (256, 64),
        shape: tuple[int, int, int] | None = None,
        loss: str = "squared",
        corruption: str = "none",
        epochs: int = 50,
        batch_size: int | str = "auto",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        dtype: str = "auto",
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        self.n_components, self.kind, self.layers, self.shape = n_components, kind, layers, shape
        self.loss = loss
        self.corruption = corruption
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.device = device
        self.random_state, self.warm_start, self.verbose = random_state, warm_start, verbose

    def fit(self, X: Rows, y: Any = None) -> Self:  # noqa: N803
        """Train on rows (N, d).

        Raises
        ------
        ValueError
            If ``warm_start`` would continue a network of another code length, kind, layers, shape
            or loss.
        """
        for _ in self.fit_steps(X):
            pass
        return self

    def fit_steps(self, X: Rows) -> Iterator[TrainProgress]:  # noqa: N803
        """Train like :meth:`fit`, and yield the progress after each training step."""
        self._validate_params()
        fresh = not (self.warm_start and hasattr(self, "space_"))
        if not fresh:
            self._check_unchanged("warm_start")
        yield from self._train(self._check(X, reset=fresh), self.epochs, fresh=fresh)

    def partial_fit(self, X: Rows, y: Any = None) -> Self:  # noqa: N803
        """Train on these rows for one more epoch.

        The first call also sets the range of values that is scaled to [-1, 1].

        Raises
        ------
        ValueError
            If the code length, kind, layers, shape or loss has changed since the first call.
        """
        self._validate_params()
        first = not hasattr(self, "space_")
        rows = self._check(X, reset=first)
        # rows that are all equal give no range of values, and nothing to learn
        fresh = first or self.range_[1] - self.range_[0] <= _narrowest(self.range_[0])
        if not fresh:
            self._check_unchanged("partial_fit")
        for _ in self._train(rows, 1, fresh=fresh):
            pass
        return self

    def _train(self, rows: Rows, epochs: int, *, fresh: bool) -> Iterator[TrainProgress]:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if fresh:
            self.range_ = self._range(rows)
            self.space_ = self._build(rows.shape[1], seed)
            self.n_steps_ = 0
        count = rows.shape[0]
        job = AutoencoderFit(
            self.space_,
            lambda chosen: self._framed(rows[chosen]).float(),
            count,
            loss=self.loss,
            corruption=self.corruption,
        )
        if fresh:
            job.fit_normalization()
        settings = self._settings(count, epochs, seed)
        for progress in train(job, settings):
            if self.verbose:
                self._tell(progress, max(1, settings.steps // epochs))
            yield progress
        self.n_steps_ += settings.steps
        self.space_.eval()
        job.recenter()

    def _check_unchanged(self, cause: str) -> None:
        if self.space_.config != self._config(self.n_features_in_):
            raise ValueError(
                f"{cause} continues the trained network, but n_components, kind, layers, shape or "
                "loss has changed since; call fit with warm_start=False"
            )

    def _range(self, rows: Rows) -> tuple[float, float]:
        """Return the values that are scaled to -1 and 1."""
        low, high = float(rows.min()), float(rows.max())
        sparse = scipy.sparse.issparse(rows)
        present = rows.nnz if sparse else np.count_nonzero(rows)
        counts = low == 0 and present < math.prod(rows.shape) / 2
        if self.shape is None and self.loss == "squared" and counts:
            # map zero to the middle of [-1, 1], which is also the value of masked entries: a masked
            # word then looks like an absent word
            low = -high
        return low, max(high, low + _narrowest(low))

    def _settings(self, count: int, epochs: int, seed: int) -> TrainSettings:
        usual = max(16, min(256, count // 50))
        batch = min(count, usual if self.batch_size == "auto" else int(self.batch_size))
        steps = epochs * math.ceil(count / batch)
        return TrainSettings(
            steps=steps,
            batch=batch,
            learning_rate=self.learning_rate,
            warmup=min(100, steps // 10),
            # the learning rate decays in 60 % of the steps, so the weights need no averaging
            cooldown=0.6,
            weight_decay=self.weight_decay,
            ema_decay=0,
            seed=seed + self.n_steps_,
            device=self.device,
            dtype=self.dtype,
        )

    def _tell(self, progress: TrainProgress, every: int) -> None:
        if progress.step % every == 0 or progress.step == progress.steps:
            print(
                f"step {progress.step} of {progress.steps}, loss {progress.loss:.5f}, "
                f"{progress.seconds_left:.0f} s left",
                flush=True,
            )

    def _config(self, columns: int) -> ConvConfig | DeepConfig:
        """The network's config, for rows of `columns` values."""
        if not all(isinstance(n, Integral) and n > 0 for n in self.layers):
            raise ValueError(f"layers {tuple(self.layers)} are not whole numbers of at least 1")
        shape = (1, 1, columns) if self.shape is None else tuple(self.shape)
        if len(shape) != 3 or not all(isinstance(n, Integral) and n > 0 for n in shape):
            raise ValueError(f"shape {shape} is not (channels, height, width)")
        if math.prod(shape) != columns:
            raise ValueError(
                f"shape {shape} has {math.prod(shape)} values, the rows have {columns}"
            )
        output: Literal["sigmoid", "linear"] = (
            "sigmoid" if self.loss == "cross_entropy" else "linear"
        )
        if self.kind == "conv" and not self.layers:
            raise ValueError("layers is empty; a convolutional autoencoder needs at least one")
        layers, codes = tuple(self.layers), self.n_components
        if self.kind == "conv":
            return ConvConfig(shape=shape, widths=layers, codes=codes, output=output)
        return DeepConfig(shape=shape, layers=layers, codes=codes, output=output)

    def _build(self, columns: int, seed: int) -> AutoencoderSpace:
        config = self._config(columns)
        with seeded(seed):
            space: AutoencoderSpace = (
                ConvAutoencoder(config)
                if isinstance(config, ConvConfig)
                else DeepAutoencoder(config)
            )
        return space.to(choose_device(self.device))

    @property
    def n_components_(self) -> int:
        """Code length."""
        return self.space_.config.codes

    def _framed(self, rows: Rows) -> Tensor:
        """Scale rows to [-1, 1] in torch, which uses all cores."""
        low, high = self.range_
        return (
            torch.from_numpy(np.require(dense(rows), requirements=["C", "W"]))
            .sub(low)
            .mul_(2 / (high - low))
            .sub_(1)
        )

    @torch.no_grad()
    def _encode(self, rows: Rows) -> NDArray[Any]:
        x = self._framed(rows)
        space = self._space_in(x.dtype)
        codes: NDArray[Any] = (
            space.encode(x.unflatten(1, space.config.shape).to(space.center.device)).cpu().numpy()
        )
        return codes

    @torch.no_grad()
    def _decode(self, codes: NDArray[Any]) -> NDArray[Any]:
        low, high = self.range_
        z = torch.from_numpy(np.ascontiguousarray(codes))
        space = self._space_in(z.dtype)
        rows: NDArray[Any] = space.decode(z.to(space.center.device)).flatten(1).cpu().numpy()
        return (rows + 1) * ((high - low) / 2) + low

    def _space_in(self, dtype: torch.dtype) -> AutoencoderSpace:
        """Return the space in the precision of the rows.

        Float64 rows then get float64 codes. In float32, rounding would make the codes of a row
        depend slightly on the other rows of the batch.

        If the precision differs, the result is a copy, so the estimator itself stays unchanged.
        """
        return (
            self.space_
            if self.space_.center.dtype == dtype
            else copy.deepcopy(self.space_).to(dtype)
        )

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.space_.config.model_dump(mode="json"),
            "range": list(self.range_),
            "steps": self.n_steps_,
        }

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {k: v.float().cpu().numpy() for k, v in self.space_.state_dict().items()}

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        source = "estimator.json"
        space: AutoencoderSpace
        if self.kind == "conv":
            space = ConvAutoencoder(ConvConfig.read(state["config"], source))
        else:
            space = DeepAutoencoder(DeepConfig.read(state["config"], source))
        space.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        try:
            device = choose_device(self.device)
        except OptionError:  # fitted on a machine with another device
            device = choose_device("auto")
        self.space_, self.n_steps_ = space.eval().to(device), state["steps"]
        self.range_ = state["range"][0], state["range"][1]


def _narrowest(low: float) -> float:
    """Smallest width of a range of values that begins at `low`."""
    return max(1e-12, 1e-6 * abs(low))
