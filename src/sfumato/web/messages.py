"""Error messages for clients of the server: they name fields in place of command-line flags."""

from __future__ import annotations

import functools

from sfumato.config import FLAG, Options, flags_of
from sfumato.runtime import replace_surrogates
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.explain.probe import ProbeOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import SearchOptions

RECORDS: tuple[type[Options], ...] = (
    CreateOptions,
    RestoreOptions,
    ReduceOptions,
    SearchOptions,
    ProbeOptions,
)


def for_clients(message: str) -> str:
    """Replace flags of the command line by names of fields, and characters that JSON cannot hold.

    Examples
    --------
    >>> for_clients("--mask needs --from, the picture to inpaint")
    'mask needs source, the picture to inpaint'
    """
    fields = _fields()
    named = FLAG.sub(lambda flag: fields.get(flag[0], flag[0]), message)
    return replace_surrogates(named)


@functools.cache
def _fields() -> dict[str, str]:
    """Each flag of a command, and the field that it sets; the first record takes precedence."""
    found: dict[str, str] = {}
    for record in RECORDS:
        found = flags_of(record) | found
    return found
