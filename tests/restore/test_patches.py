"""Wide holes filled with texture of the picture's own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.tasks.restore.engines import engine, restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.patches import complete, wide_holes
from sfumato.tasks.restore.patchmatch import Level, search


def stripes(tall=96, wide=128, period=8, channels=3):
    """Slanted stripes: a mean filling of them is gray."""
    y, x = np.mgrid[:tall, :wide]
    wave = 127 + 100 * np.sign(np.sin(2 * np.pi * (x + 0.5 * y) / period))
    return np.repeat(wave[..., None], channels, axis=2).astype(np.uint8)


def from_photo(values):
    return torch.from_numpy(values.transpose(2, 0, 1) / 127.5 - 1).float()


def box(values, left, top, width, height):
    hidden = np.zeros(values.shape[:2], bool)
    hidden[top : top + height, left : left + width] = True
    return hidden


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("place", [(40, 30, 40, 36), (0, 0, 40, 36), (88, 60, 40, 36)], ids=str)
def test_texture_goes_on_where_a_mean_would_be_gray(channels, place):
    values = stripes(channels=channels)
    hidden = box(values, *place)
    made = restore(Photo(values), RestoreOptions(fill_box=place))
    mean = restore(Photo(values), RestoreOptions(fill_box=place, engine="network"))
    assert (made.photo.values == values)[~hidden].all(), "known pixels stay bit for bit"
    off, off_mean = (
        np.abs(m.photo.values.astype(int) - values)[hidden].mean() for m in (made, mean)
    )
    assert off < 25 < off_mean
    assert (made.report["engine"], made.report["seed"]) == ("patches", 0)
    assert made.report["largest_change_elsewhere"] == 0
    assert "engine" not in mean.report


def test_the_same_seed_fills_in_the_same_way():
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    made = [
        restore(Photo(values), RestoreOptions(fill_box=(16, 16, 30, 30), seed=seed)).photo.values
        for seed in (3, 3, 4)
    ]
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()


def test_thin_gaps_are_left_to_the_network():
    hidden = np.zeros((64, 64), bool)
    hidden[:, 30:40] = True
    assert not wide_holes(hidden).any()
    values = stripes(64, 64)
    options = {"fill_box": (30, 0, 10, 64)}
    auto = restore(Photo(values), RestoreOptions(**options))
    network = restore(Photo(values), RestoreOptions(**options, engine="network"))
    patches = restore(Photo(values), RestoreOptions(**options, engine="patches"))
    assert (auto.photo.values == network.photo.values).all()
    assert (patches.photo.values != network.photo.values).any()
    assert patches.report["engine"] == "patches"


@pytest.mark.parametrize("shape", [(40, 40), (9, 60), (5, 5), (64, 3)], ids=str)
def test_pictures_with_hardly_a_known_window(shape):
    values = stripes(*shape)
    place = (0, 0, shape[1], shape[0] - 1)
    made = restore(Photo(values), RestoreOptions(fill_box=place, engine="patches")).photo.values
    assert made.shape == values.shape
    assert (made[-1] == values[-1]).all()


def test_sixteen_bits_and_transparency_survive():
    values = stripes().astype(np.uint16) * 257
    alpha = np.full(values.shape[:2], 200, np.uint8)
    made = restore(Photo(values, alpha), RestoreOptions(fill_box=(40, 30, 40, 36)))
    hidden = box(values, 40, 30, 40, 36)
    assert made.photo.values.dtype == np.uint16
    assert (made.photo.values == values)[~hidden].all()
    assert (made.photo.alpha == alpha).all()


def test_several_answers(tmp_path, monkeypatch, capsys):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    words = ["restore", "a.png", "--fill-box", "16,16,30,30", "--samples", "2", "--output", "b.png"]
    monkeypatch.setattr("sys.argv", ["sfumato", *words, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["path"], line["seed"]) for line in lines] == [("b-1.png", 0), ("b-2.png", 1)]
    assert (tmp_path / "b-spread.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoise": 9.0, "samples": 2}, "need a task with several possible results"),
        (
            {"fill_box": (1, 1, 30, 30), "samples": 2, "engine": "network"},
            "several possible results",
        ),
        ({"denoise": 9.0, "engine": "patches"}, "--engine patches fills holes"),
        ({"fill_box": (1, 1, 30, 30), "steps": 3}, "need --engine diffusion"),
    ],
    ids=str,
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(OptionError, match=message):
        RestoreOptions(**options)


def test_samples_of_a_thin_gap_are_refused():
    thin = RestoreOptions(fill_box=(5, 5, 6, 6), samples=2)
    with pytest.raises(OptionError, match="there is only one result"):
        list(engine(thin)(Photo(stripes())))
    with pytest.raises(OptionError, match="another seed"):
        restore(Photo(stripes()), thin)


def test_the_network_runs_only_where_patches_do_not_fill(monkeypatch):
    seen = []
    whole = RestorationNetworks.repair

    def repair(self, y, *rest):
        seen.append(tuple(y.shape[-2:]))
        return whole(self, y, *rest)

    monkeypatch.setattr(RestorationNetworks, "repair", repair)
    values = stripes(80, 80)
    place = {"fill_box": (20, 20, 40, 40)}
    wide = restore(Photo(values), RestoreOptions(**place))
    assert not seen and wide.report["engine"] == "patches"
    restore(Photo(values), RestoreOptions(**place, engine="network"))
    assert seen
    seen.clear()
    mesh = np.zeros((80, 80), np.uint8)
    mesh[::6, ::6] = 255
    mesh[20:60, 20:60] = 255
    values[mesh > 0] = 255
    made = restore(Photo(values), RestoreOptions(fill_color="#ffffff", engine="patches"))
    assert seen and "engine" not in made.report, "no window is known: the network fills the hole"


def test_ruling_out_matches_early_changes_no_error():
    values = torch.rand(5, 40, 40, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(40, 40, dtype=torch.bool)
    hole[12:26, 10:30] = True
    level, random = Level.of(values, hole), torch.Generator().manual_seed(1)
    first = level.chance(random)
    matches, errors = search(level, first, random)
    rows = values.flatten(1).T
    offsets = (torch.arange(-3, 4)[:, None] * 40 + torch.arange(-3, 4)).flatten()
    here, there = level.targets[:, None] + offsets, matches[:, None] + offsets
    squares = (rows[here] - rows[there]).square().sum(dim=2)
    weight = level.weight[here]
    torch.testing.assert_close(errors, (squares * weight).sum(1) / weight.sum(1))
    before = (rows[here] - rows[first[:, None] + offsets]).square().sum(dim=2)
    assert (errors <= (before * weight).sum(1) / weight.sum(1) + 1e-6).all()
    assert level.valid[matches].all()


def test_the_old_name_of_the_engine():
    assert RestoreOptions(denoise=9.0, engine="trained").engine == "auto"


def test_a_hole_in_a_mesh_leaves_no_window_to_copy():
    values = stripes(160, 160)
    hidden = np.zeros((160, 160), np.uint8)
    hidden[::6, ::6] = 255
    hidden[60:100, 60:100] = 255
    made = complete(lambda rows, columns: from_photo(values)[:, rows, columns], hidden > 0)
    *_, filled = made
    assert filled.values.shape == (3, 160, 160)


def test_a_long_hole_of_a_panorama_takes_little_memory():
    values = stripes(48, 3000)
    place = (100, 10, 2800, 28)
    made = restore(Photo(values), RestoreOptions(fill_box=place)).photo.values
    hidden = box(values, *place)
    assert (made == values)[~hidden].all()


def test_no_edge_where_windows_of_two_sides_meet():
    """A sky that grows brighter to the right: what is copied from left and right differs."""
    random = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 160) ** 2 - 0.5
    sky = ramp + 0.02 * torch.randn((3, 140, 160), generator=random)
    hidden = np.zeros((140, 160), bool)
    hidden[20:120, 55:105] = True
    *_, filled = complete(lambda rows, columns: sky[:, rows, columns], hidden)
    whole = sky.clone()
    whole[:, filled.rows, filled.columns] = filled.values
    profile = whole[:, 30:110].mean(dim=(0, 1))
    steps = (profile[1:] - profile[:-1]).abs()
    assert float(steps.max()) < 0.03, "without the last step of complete, it is 0.08"
    assert float((profile - ramp).abs().max()) < 0.02
    grain = whole[:, 30:110, 60:100] - ramp[60:100]
    assert float(grain.std()) > 0.015, "the grain of the sky"
