"""Error messages for clients of the server: they name fields in place of command-line flags."""

from __future__ import annotations

import functools
import re

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


# file of a picture of a request, in its job's folder
KEPT = re.compile(r"(?:/|[A-Z]:\\).*[/\\]([a-z_]+)\.picture\b|\b([a-z_]+)\.picture\b")


def for_clients(message: str) -> str:
    """Replace flags of the command line and files of the server by names of fields.

    Characters that JSON cannot hold are replaced, too.

    Examples
    --------
    >>> for_clients("--mask needs --from, the picture to inpaint")
    'mask needs source, the picture to inpaint'
    >>> for_clients("/tmp/jobs/1/mask.picture has no white pixels")
    'mask has no white pixels'
    """
    fields = _fields()
    named = FLAG.sub(lambda flag: fields.get(flag[0], flag[0]), message)
    named = KEPT.sub(lambda file: file[1] or file[2], named)
    return replace_surrogates(named)


@functools.cache
def _fields() -> dict[str, str]:
    """Each flag of a command, and the field that it sets; the first record takes precedence."""
    found: dict[str, str] = {}
    for record in RECORDS:
        found = flags_of(record) | found
    return found
