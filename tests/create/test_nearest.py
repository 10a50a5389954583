"""A copy is known as one; what is none is far from everything."""

import csv
import gzip
import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfumato import image
from sfumato.hub.catalog import BUNDLED
from sfumato.space.pca import Moments
from sfumato.tasks.nearest import CODES, COLUMNS, FOLDER, NAMES, TrainingPictures, codable

RANDOM = np.random.default_rng(0)


def smooth(k):
    """A random picture of a few large spots."""
    small = np.random.default_rng(k).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder that knows forty training pictures."""
    place = tmp_path_factory.mktemp("model")
    (place / FOLDER).mkdir()
    x = torch.cat([codable(smooth(k)) for k in range(40)])
    space = Moments.of(x.flatten(1).numpy()).solve(16)
    scale = np.sqrt(space.variances) / 16
    codes = (space.encode(x).numpy() / scale).round().clip(-127, 127).astype(np.int8)
    tensors = {"mean": space.mean, "components": space.components, "scale": scale, "codes": codes}
    save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, place / FOLDER / CODES)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([COLUMNS, *[(f"picture {k}", "set", "somebody", "CC0") for k in range(40)]])
    (place / FOLDER / NAMES).write_bytes(gzip.compress(text.getvalue().encode()))
    return place


def test_a_copy_and_its_mirror_image_are_found(folder):
    known = TrainingPictures.load(folder)
    noisy = np.asarray(smooth(7)).astype(float) + RANDOM.normal(0, 5, (64, 64, 3))
    first, second = known.nearest(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), 2)
    assert first.name == "picture 7" and not first.mirrored
    assert first.distance < 5 < second.distance / 3
    mirror = smooth(7).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert known.nearest(mirror, 1)[0].name == "picture 7"
    assert known.nearest(mirror, 1)[0].mirrored


def test_the_distance_is_at_most_that_of_the_pictures(folder):
    known = TrainingPictures.load(folder)
    for k in (100, 101):
        found = known.nearest(smooth(k), 1)[0]
        other = smooth(int(found.name.split()[1]))
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        seen = smooth(k).transpose(flip) if found.mirrored else smooth(k)
        true = 127.5 * float((codable(seen) - codable(other)).square().mean().sqrt())
        assert 10 < found.distance <= true + 2


def test_the_bundled_model_knows_what_it_was_trained_on(run, tmp_path):
    known = TrainingPictures.load(BUNDLED / "icons")
    assert len(known.codes) == len(known.rows) == 22464
    row = known.space.decode(torch.from_numpy(known.codes[[500]]).double())
    image.to_pictures(row.float().reshape(1, 3, 32, 32))[0].save(tmp_path / "copy.png")
    code, out, err = run("inspect", tmp_path / "copy.png", "--nearest")
    assert code == 0, err
    assert known.rows[500]["name"] in out.splitlines()[0] and known.rows[500]["author"] in out
    assert float(out.split()[0]) < 8


def test_a_model_that_does_not_say(run, tiny, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    code, _, err = run("inspect", tmp_path / "x.png", "--nearest", "--model", tiny)
    assert code == 2 and "has no codes of its training pictures" in err
