"""Device, dtype, threads, files written whole, and one random stream per picture."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Generator, Tensor

from sfumato.errors import OptionError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_VARIABLE = "SFUMATO_DTYPE"
MAX_SEED = 2**63 - 1
# of a CPU generator's state: behind the seed, two flags and a place (ATen, CPUGeneratorImpl.cpp)
STATE_WORDS = slice(24, 24 + 8 * 624)


def legible(text: str) -> str:
    """The text without halves of surrogate pairs, which neither tokenizers nor files can hold.

    Examples
    --------
    >>> legible("a \\ud800 cat")
    'a ? cat'
    """
    return text.encode("utf-8", "replace").decode()


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the best there is.

    Raises
    ------
    OptionError
        For a name that torch does not know and a device that is not there.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False) or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise OptionError(f'device "{name}" is not available on this machine; use --device cpu')
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; elsewhere it is emulated, several times slower
    than float32.

    An x86 CPU does with AVX-512 BF16 or AMX, an ARM CPU with its BF16 extension, each through
    oneDNN; an NVIDIA GPU from compute capability 8.0 on, and Apple's GPUs from macOS 14 on.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_dtype(name: str, device: torch.device, *, exact: bool = False) -> torch.dtype:
    """The named dtype; ``auto`` is bfloat16 where the device has it (:func:`has_bfloat16`), else
    float32.

    Parameters
    ----------
    name : str
        ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    device : torch.device
    exact : bool
        For results that 16 bits change visibly: ``auto`` is float32 on every CPU.

    Raises
    ------
    OptionError
        For another name. The environment variable ``SFUMATO_DTYPE`` says what ``auto`` is, in place
        of the hardware.
    """
    if name == "auto":
        name = os.environ.get(DTYPE_VARIABLE) or "auto"
    if name == "auto":
        return (
            torch.bfloat16
            if has_bfloat16(device) and not (exact and device.type == "cpu")
            else torch.float32
        )
    if name not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


def random_seed() -> int:
    """A seed for someone who gave none: short enough to type, 0 to 2^32 - 1."""
    return secrets.randbelow(2**32)


def generator(*keys: int | str) -> Generator:
    """A CPU generator that depends on `keys` alone: the same on every machine, thread count and
    batch.

    Examples
    --------
    >>> first, second = (torch.rand(1, generator=generator(7, "noise")) for _ in range(2))
    >>> first == second
    tensor([True])
    """
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") & MAX_SEED)


def derived(seed: int, k: int) -> int:
    """The seed of the k-th try that one seed gives: itself for the first.

    Examples
    --------
    >>> derived(7, 0), derived(7, 1) == derived(7, 2)
    (7, False)
    """
    return seed if k == 0 else generator(seed, "try", k).initial_seed()


def stream(seed: int) -> Generator:
    """A CPU generator that depends on all 64 bits of a seed; torch's own looks at the lower half.

    Seeds below 2^32 give torch's stream. For the others the state of its Mersenne Twister is the
    one that the algorithm's `init_by_array` makes of both halves (Matsumoto & Nishimura 1998), as
    NumPy computes it.

    Examples
    --------
    >>> low, high = (torch.randn(3, generator=stream(seed)) for seed in (7, 7 + 2**32))
    >>> alone = torch.randn(3, generator=torch.Generator().manual_seed(7))
    >>> bool((low == alone).all()), bool((low == high).any())
    (True, False)
    """
    out = torch.Generator("cpu").manual_seed(seed)
    if seed >= 2**32:
        twister = np.random.MT19937()
        twister._legacy_seeding([seed & 0xFFFFFFFF, seed >> 32])
        words = torch.from_numpy(twister.state["state"]["key"].astype(np.int64))
        state = out.get_state()
        state[STATE_WORDS] = words.view(torch.uint8)
        out.set_state(state)
    return out


class Streams:
    """One stream of Gaussian noise per picture.

    Picture k draws from its own generator, so its noise depends on its seed alone: not on the
    pictures beside it, the device or the number of threads. Noise is drawn in float32 on the CPU
    and then moved.

    Examples
    --------
    >>> both, single = Streams([3, 4]), Streams([4])
    >>> bool((both.normal((2, 1, 2, 2))[1] == single.normal((1, 1, 2, 2))[0]).all())
    True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [stream(seed) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise (B, ...), B = the number of streams."""
        return torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in self.generators])

    def like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape, device and dtype of `x`."""
        return self.normal(x.shape).to(x)


def check_folder(path: Path) -> None:
    """Refuse a place for a folder where a file is, or where nothing may be written.

    Raises
    ------
    OptionError
    """
    if str(path) == "-":
        raise OptionError(
            "- stands for standard output, to which nothing is written; give a file or a folder"
        )
    if path.exists() and not path.is_dir():
        raise OptionError(f"{path} is a file; give a folder")
    there = next(p for p in [path, *path.absolute().parents] if p.exists())
    if not os.access(there, os.W_OK):
        raise OptionError(f"{there} cannot be written to; choose another --output")


def check_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a place for a file where a folder is, or another file that is not to be replaced.

    Raises
    ------
    OptionError
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder, where a file is to be written; give another name")
    if path.exists() and not overwrite:
        raise OptionError(f"{path} is there already; give --overwrite to replace it")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A scratch path beside `path` that takes its place when the block ends well, and is removed
    when it does not.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".sfumato-{secrets.token_hex(8)}{path.suffix}")
    try:
        try:
            scratch.open("xb").close()
        except OSError as error:  # a place that is full or read-only is told by its own name
            raise type(error)(error.errno, error.strerror, str(path)) from None
        yield scratch
        with scratch.open("rb") as f:
            os.fsync(f.fileno())
        if path.exists():
            scratch.chmod(path.stat().st_mode & 0o777)
        scratch.replace(path)
    except SafetensorError as error:  # as of a full disk
        raise OSError(f"{path} cannot be written: {error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def array_file(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new ``.npy`` file as an array to write to; its place on the disk is taken at once, so that
    a full one is an error, not a crash.
    """
    out: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, path.stat().st_size))
    return out


def keep_memory() -> bool:
    """Let the C library keep the memory that tensors give back: training on a CPU allocates the
    same sizes over and over.

    By default glibc returns large blocks to the system at once, and each next tensor is paid for
    with page faults.

    Returns
    -------
    bool
        Whether this C library takes the settings (glibc does).
    """
    trim_threshold, mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Mixed precision with `dtype`, or nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
