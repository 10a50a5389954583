"""A folder of pictures with captions."""

import json

import pytest
from tests.train.common import COLORS, encoded


@pytest.fixture
def folder(tmp_path):
    """Six plain pictures with captions in metadata.jsonl, and one broken file."""
    place = tmp_path / "data"
    place.mkdir()
    for color in COLORS:
        (place / f"{color}.png").write_bytes(encoded(color))
    (place / "broken.png").write_bytes(encoded("red")[:40])
    rows = [{"file_name": f"{c}.png", "text": f"a {c} square"} for c in (*COLORS, "broken")]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place
