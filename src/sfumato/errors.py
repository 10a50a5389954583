"""The errors that the package raises for users; estimators also raise ValueError.

The hierarchy of exceptions::

    SfumatoError           catch this to catch them all; the CLI prints it and exits with code 2
    |-- OptionError        an option, name or size that is not accepted
    |-- ConfigError        a key or value of a config (model or training) that is not supported
    |-- ModelError         a model folder or weight file that cannot be used
    |-- PictureError       a picture that cannot be read or written
    |-- DataError          a data set or search index that cannot be used
    `-- TrainingError      training that cannot continue (NaN, a checkpoint of another run)

A message says what was given, what is accepted and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SfumatoError(Exception):
    """Base of all errors raised on purpose; the message is one sentence for the user."""


class OptionError(SfumatoError, ValueError):
    """An option, a name or a size that is not accepted."""


class ConfigError(SfumatoError, ValueError):
    """A key or value that is not supported, in the config of a model or of a training run."""


class ModelError(SfumatoError):
    """A model folder or weight file that cannot be used."""


class PictureError(SfumatoError):
    """A picture that cannot be read or written."""


class DataError(SfumatoError):
    """A data set or search index that cannot be used."""


class TrainingError(SfumatoError):
    """Training that cannot continue."""


def unknown(what: str, name: str, known: Iterable[str]) -> OptionError:
    """Build the error for an unknown name; its message suggests the nearest known name.

    Examples
    --------
    >>> print(unknown("sampler", "dpm++2m", ["euler", "dpmpp_2m"]))
    unknown sampler "dpm++2m"; did you mean "dpmpp_2m"? known: dpmpp_2m, euler
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return OptionError(f'unknown {what} "{name}"; {hint}known: {", ".join(names)}')
