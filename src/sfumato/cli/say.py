"""Print results to stdout and notes to stderr, with control characters escaped."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

FAILED, PARTLY = 2, 3  # exit codes: the command failed; some of many files could not be used
LONGEST = 600  # maximum number of characters of a note or an error
LISTED = 10  # maximum number of notes of one kind

# C0 and C1 control characters, line and paragraph separators, and directional formatting characters
# (Unicode 16, UAX 9)
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escaped(text: str, keep: str = "") -> str:
    """Escape the control characters of a text, because files and their names may contain some.

    Examples
    --------
    >>> print(escaped("a\\x1b]0;b\\x07\\n"))
    a\\x1b]0;b\\x07\\n
    """
    return UNSAFE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(),
        text,
    )


def say(text: str, *, err: bool = False, keep: str = "") -> None:
    """Print a line; control characters in `keep`, such as line ends, are not escaped."""
    stream = sys.stderr if err else sys.stdout
    stream.write(escaped(text, keep) + "\n")
    stream.flush()


def note(text: str) -> None:
    """Print a line about the run to stderr."""
    say("sfumato: " + shortened(text), err=True)


def note_all(lines: Sequence[str], title: str = "") -> None:
    """Print a note for each of the first 10 lines, and one that counts the others."""
    for line in lines[:LISTED]:
        note(f"{title}{line}")
    if len(lines) > LISTED:
        note(f"{title}{len(lines) - LISTED} more")


def shortened(text: str) -> str:
    """Shorten a long text by leaving out its middle."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"
