"""Devices, dtypes, memory, atomic file writes, and one random stream per picture."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import platform
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Generator, Tensor

from sfumato.errors import OptionError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_VARIABLE = "SFUMATO_DTYPE"
SCRATCH = ".sfumato-"  # first letters of the name of a scratch file
MAX_SEED = 2**63 - 1
SEEDING = threading.Lock()  # torch's global generator is in use
# position of the Mersenne Twister's words, in bytes, in a CPU generator's state: they follow the
# seed, two flags and an index (ATen, CPUGeneratorImpl.cpp)
STATE_WORDS = slice(24, 24 + 8 * 624)


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates in a text, because tokenizers and files do not accept them.

    Examples
    --------
    >>> replace_surrogates("a \\ud800 cat")
    'a ? cat'
    """
    return text.encode("utf-8", "replace").decode()


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; ``auto`` is CUDA if available, else the CPU.

    Raises
    ------
    OptionError
        If torch does not know the name, or the device is not available.

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
    """Return whether a device computes in bfloat16 natively; elsewhere bfloat16 is emulated,
    several times slower than float32.

    An x86 CPU needs AVX-512 BF16 or AMX; an ARM CPU needs its BF16 extension; both need oneDNN. An
    NVIDIA GPU needs compute capability 8.0. An Apple GPU needs macOS 14.
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
    """Return the named dtype; ``auto`` is bfloat16 if the device has it (:func:`has_bfloat16`),
    else float32.

    Parameters
    ----------
    name : str
        ``auto``, ``float32``, ``bfloat16`` or ``float16``. The environment variable
        ``SFUMATO_DTYPE`` overrides ``auto``.
    device : torch.device
    exact : bool
        Whether ``auto`` is float32 on every CPU. Use this for results that bfloat16 would change
        visibly.

    Raises
    ------
    OptionError
        If the name is unknown.
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
    """Return a random seed from 0 to 2^32 - 1, short enough to type."""
    return secrets.randbelow(2**32)


def generator(*keys: int | str) -> Generator:
    """Return a CPU generator that depends on `keys` alone, not on machine, threads or batch.

    Examples
    --------
    >>> first, second = (torch.rand(1, generator=generator(7, "noise")) for _ in range(2))
    >>> first == second
    tensor([True])
    """
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") & MAX_SEED)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside a ``with`` block.

    Layers use this generator for their initial weights. Its state is restored afterwards. The
    generator is global, so one thread at a time can use it.

    Examples
    --------
    >>> with seeded(7):
    ...     first = torch.nn.Linear(2, 2)
    >>> with seeded(7):
    ...     second = torch.nn.Linear(2, 2)
    >>> torch.equal(first.weight, second.weight)
    True
    """
    with SEEDING, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def on_device(random: Generator, device: torch.device) -> Generator:
    """Return the random generator to use for drawing large tensors on a device.

    For CUDA, it is a generator on the GPU with the seed of `random`, so that no random numbers are
    copied to the GPU. For other devices, it is `random` itself.
    """
    if device.type != "cuda":
        return random
    return torch.Generator(device).manual_seed(random.initial_seed())


def json_safe(value: Any) -> Any:
    """Replace what JSON lacks in nested dicts and lists.

    Infinity and NaN become None, and lone surrogates in texts become question marks.

    Examples
    --------
    >>> json_safe({"psnr": math.inf, "levels": [1.0, math.nan], "name": "a"})
    {'psnr': None, 'levels': [1.0, None], 'name': 'a'}
    """
    if isinstance(value, Mapping):
        return {replace_surrogates(str(name)): json_safe(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(part) for part in value]
    if isinstance(value, str):
        return replace_surrogates(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def derive_seed(seed: int, k: int) -> int:
    """Derive the seed of candidate `k` for a picture.

    With the option ``best_of``, `create` generates several candidates of each picture. Candidate 0
    has the picture's seed.

    Examples
    --------
    >>> derive_seed(7, 0), derive_seed(7, 1) == derive_seed(7, 2)
    (7, False)
    """
    return seed if k == 0 else generator(seed, "try", k).initial_seed()


def seed_generator(seed: int) -> Generator:
    """Return a CPU generator that uses all 64 bits of a seed; torch's own uses only the lower 32.

    Seeds below 2^32 give the same numbers as torch's own generator. For larger seeds, NumPy's
    `init_by_array` (Matsumoto & Nishimura 1998) sets the state of the Mersenne Twister from both
    halves of the seed.

    Examples
    --------
    >>> low, high = (torch.randn(3, generator=seed_generator(seed)) for seed in (7, 7 + 2**32))
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

    Each picture has its own generator, so its noise depends on its seed alone: not on the rest of
    the batch, the device or the number of threads. Noise is sampled in float32 on the CPU and then
    moved to the device.

    Examples
    --------
    >>> both, single = Streams([3, 4]), Streams([4])
    >>> bool((both.normal((2, 1, 2, 2))[1] == single.normal((1, 1, 2, 2))[0]).all())
    True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [seed_generator(seed) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Sample standard normal noise (B, ...), where B is the number of streams."""
        return torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in self.generators])

    def like(self, x: Tensor) -> Tensor:
        """Sample standard normal noise with the shape, device and dtype of `x`."""
        return self.normal(x.shape).to(x)


def check_folder(path: Path) -> None:
    """Raise an error if a path cannot be an output folder because it is a file or not writable.

    Raises
    ------
    OptionError
    """
    if str(path) == "-":
        raise OptionError(
            "- means standard output, which is not supported here; give a file or a folder"
        )
    if path.exists() and not path.is_dir():
        raise OptionError(f"{path} is a file; give a folder")
    there = next(p for p in [path, *path.absolute().parents] if p.exists())
    if not os.access(there, os.W_OK):
        raise OptionError(f"{there} cannot be written to; choose another --output")


def check_file(path: Path, *, overwrite: bool) -> None:
    """Raise an error if a path is a folder, or a file that must not be overwritten.

    Raises
    ------
    OptionError
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder, but the output is a file; give another name")
    if path.exists() and not overwrite:
        raise OptionError(f"{path} exists already; give --overwrite to replace it")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield the path of a scratch file to write to.

    The scratch file replaces `path` if the block succeeds, and is removed if the block fails.
    """
    path = Path(os.path.realpath(path))  # writes through a symbolic link
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{SCRATCH}{secrets.token_hex(8)}{path.suffix}")
    try:
        try:
            scratch.open("xb").close()
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        # some writers replace the scratch file by one that others may not read
        mode = (path if path.exists() else scratch).stat().st_mode & 0o777
        yield scratch
        with scratch.open("rb") as f:
            os.fsync(f.fileno())
        if scratch.stat().st_mode & 0o777 != mode:  # not every file system allows a change
            scratch.chmod(mode)
        scratch.replace(path)
    except SafetensorError as error:  # the disk may be full
        raise OSError(f"{path} cannot be written: {error}") from None
    except OSError as error:  # errors name `path`, not the scratch file
        if error.errno is None or error.filename not in (None, str(scratch)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch(folder: Path) -> None:
    """Remove the scratch files in a folder that :func:`atomic` left when its process was killed."""
    for path in folder.glob(f"{SCRATCH}*"):
        path.unlink(missing_ok=True)


def array_file(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create a ``.npy`` file as a memory-mapped array.

    The disk space is reserved immediately, so that a full disk raises an error now and does not
    crash the process at a later write.
    """
    out: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, path.stat().st_size))
        except OSError as error:
            path.unlink()
            raise type(error)(error.errno, error.strerror, str(path)) from None
    return out


def keep_memory() -> bool:
    """Let the C library keep freed memory for reuse.

    Training on a CPU allocates blocks of the same sizes again and again.

    By default, glibc returns large blocks to the system immediately, so each new tensor costs page
    faults.

    Returns
    -------
    bool
        Whether this C library accepts the settings (glibc does).
    """
    trim_threshold, mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return a context manager for mixed precision with `dtype`; for float32 it does nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
