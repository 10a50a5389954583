"""Color: luminance stays, tones stay, hints are met."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.restore.common import PHOTO, lab, pictures

from sfumato.data.photo import Photo
from sfumato.image import LUMA
from sfumato.tasks.restore.color import consensus_chroma, deblock_chroma, tone
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions


def test_gray_in_three_channels_stays_gray(repairer):
    one, three = (
        restore(
            Photo(np.repeat(PHOTO[..., :1], k, axis=2)), RestoreOptions(denoise=20.0), repairer
        ).photo
        for k in (1, 3)
    )
    assert three.values.shape[2] == 3
    assert (three.values == one.values).all()


def test_a_sepia_print_keeps_its_tone_and_gets_no_other_color(repairer, sepia):
    made = restore(Photo(sepia), RestoreOptions(denoise=20.0), repairer).photo.values.astype(
        np.float32
    )
    level = made @ np.array(LUMA, np.float32)
    wanted = np.array([12.0, -2.0, -21.0]) * (level / 255 * (1 - level / 255) * 4)[..., None]
    assert np.abs((made - level[..., None]) - wanted)[(level > 30) & (level < 225)].max() < 3
    assert tone(Photo(PHOTO)) is None and tone(Photo(PHOTO[..., :1])) is None, (
        "in colors, and in gray"
    )


def test_a_sepia_print_that_was_painted_on_is_filled_in_its_tone(repairer, sepia):
    clean = tone(Photo(sepia))
    sepia[20:35, 10:40] = (255, 0, 0)
    assert tone(Photo(sepia)) is None
    hidden = (sepia == (255, 0, 0)).all(axis=2)
    assert torch.allclose(tone(Photo(sepia), hidden), clean, atol=0.02)
    made = (
        restore(Photo(sepia), RestoreOptions(fill_color="#ff0000"), repairer)
        .photo.values[hidden]
        .astype(np.float32)
    )
    assert (np.ptp(made, axis=1) < 36).all(), "no other color than the tone's"


def test_a_single_pixel_is_in_one_tone(repairer):
    made = restore(
        Photo(np.array([[[200, 60, 30]]], np.uint8)), RestoreOptions(denoise=20.0), repairer
    ).photo.values
    assert made.shape == (1, 1, 3)
    assert made[0, 0, 0] > made[0, 0, 2]


@pytest.mark.parametrize("kind", ["RGB", "gray"])
def test_colorizing_keeps_luminance(kind, repairer):
    photo = Photo(pictures(kind))
    made = restore(photo, RestoreOptions(colorize=True), repairer)
    assert made.photo.values.shape == PHOTO.shape
    before = photo.values[..., 0] if kind == "gray" else photo.values @ np.array(LUMA)
    assert np.abs(made.photo.values @ np.array(LUMA) - before).max() <= 1
    assert made.report["largest_change_of_luminance"] <= 1
    assert np.ptp(made.photo.values.astype(int), axis=2).mean() > 1, "there is color"


@pytest.mark.parametrize(("channels", "told"), [(1, False), (3, True)])
def test_colors_are_not_replaced_without_a_word(channels, told, repairer):
    photo = Photo(PHOTO[..., :channels])
    made = restore(photo, RestoreOptions(colorize=True), repairer)
    assert any("the photo has colors" in note for note in made.notes) == told


def test_hints_are_met(repairer):
    """To a CIE76 difference of 5."""
    places = [(20, 10), (90, 30), (50, 70)]
    hints = tuple((x, y, "#{:02x}{:02x}{:02x}".format(*PHOTO[y, x])) for x, y in places)
    made = restore(Photo(PHOTO), RestoreOptions(colorize=True, hints=hints), repairer).photo.values
    plain = restore(Photo(PHOTO), RestoreOptions(colorize=True), repairer).photo.values
    far, otherwise = (
        [float(np.linalg.norm(lab(picture[y, x]) - lab(PHOTO[y, x]))) for x, y in places]
        for picture in (made, plain)
    )
    assert max(far) <= 5, far
    assert max(otherwise) > 10, "without hints they are not"


def test_colors_that_views_disagree_about_are_paled():
    """A guess that follows the photo stays; one that flips when it is mirrored becomes gray."""
    gray = torch.rand((1, 1, 24, 32), generator=torch.Generator().manual_seed(0)) - 0.5
    red = torch.tensor([0.4, -0.2, 0.0])[None, :, None, None]

    def sure(view):
        return red.expand(-1, -1, *view.shape[-2:])

    def unsure(view):  # red at the left, whatever is shown
        side = torch.linspace(1, -1, view.shape[-1])
        return side * red.expand(-1, -1, *view.shape[-2:])

    assert torch.allclose(consensus_chroma(gray, sure), sure(gray), atol=1e-3)
    assert consensus_chroma(gray, unsure).abs().max() < 0.02


def test_saturation_scales_the_guess(repairer):
    def chroma(**more):
        made = restore(Photo(PHOTO), RestoreOptions(colorize=True, **more), repairer).photo.values
        return made.astype(float) - made @ np.array(LUMA)[:, None]

    usual, pale, gray = (chroma(**m) for m in ({}, {"saturation": 0.5}, {"saturation": 0}))
    assert np.abs(gray).max() < 1
    # what would be brighter than white is paled already
    assert 0.45 < np.abs(pale).mean() / np.abs(usual).mean() < 0.7


def test_the_palette_of_another_photo_is_taken(tmp_path, repairer):
    """Where the other photo is red in the dark and blue in the light, the guess becomes so."""
    ramp = np.linspace(0, 255, 96)[None, :, None].repeat(64, axis=0)
    Image.fromarray(
        (ramp + (1 - ramp / 255) * [60, 0, 0] + ramp / 255 * [-60, 0, 60]).clip(0, 255).astype("u1")
    ).save(tmp_path / "like.png")
    options = RestoreOptions(colorize=True, like=str(tmp_path / "like.png"))
    made = restore(Photo(PHOTO), options, repairer).photo.values.astype(float)
    gray = made @ np.array(LUMA)
    redder = made[..., 0] - made[..., 2]
    dark, light = redder[(gray > 40) & (gray < 90)], redder[(gray > 160) & (gray < 210)]
    assert dark.mean() > 10 and light.mean() < -10
    assert np.abs(gray - PHOTO @ np.array(LUMA)).max() <= 1


def test_squares_of_color_go_and_edges_stay():
    """Chroma that jumps where luminance is flat is evened out; where luminance jumps, too, it
    stays. At a better quality nothing is touched.
    """
    x = torch.zeros(1, 3, 64, 64)
    x[..., 32:] = 0.8  # an edge of luminance, at which the color changes
    chroma = torch.tensor([0.2, -0.1, 0.0])[:, None, None]
    squares = ((torch.arange(64) // 16) % 2).float() * 0.3
    x = x + torch.where(torch.arange(64) < 32, chroma, -chroma) + chroma * squares[:, None]
    made = deblock_chroma(x, 10)

    def jump(picture):
        return (picture[0, 0, 16, :24] - picture[0, 0, 15, :24]).abs().mean()

    def edge(picture):
        return (picture[0, 0, :, 33] - picture[0, 0, :, 30]).abs().mean()

    assert jump(made) < 0.3 * jump(x)
    assert edge(made) > 0.8 * edge(x)
    assert torch.equal(deblock_chroma(x, 20), x)


@pytest.mark.parametrize("kind", ["RGB", "gray"])
def test_filling_and_coloring_keep_the_luminance_of_all_else(kind, repairer):
    photo = Photo(pictures(kind))
    made = restore(photo, RestoreOptions(fill_box=(10, 20, 30, 15), colorize=True), repairer)
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[20:35, 10:40] = True
    before, after = (
        np.atleast_3d(p.values).astype(float)
        @ (np.array(LUMA) if p.values.shape[2] == 3 else np.ones(1))
        for p in (photo, made.photo)
    )
    assert np.abs(after - before)[~inside].max() <= 1.01
    assert np.abs(after - before)[inside].max() > 5
    assert made.report["largest_change_of_luminance"] <= 1.01
    assert "largest_change_elsewhere" not in made.report


def test_beside_clean_the_bundled_networks_give_color(folder):
    alone, beside = RestorationNetworks(folder), RestorationNetworks(folder, repairs=True)
    gray = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    assert torch.equal(beside.colors(gray), RestorationNetworks().colors(gray)), (
        "it was trained on pairs"
    )
    assert (
        beside.sha256("photos")
        == alone.sha256("photos")
        == alone.sha256("tints")
        != beside.sha256("tints")
    )


def test_invisible_colors_and_a_single_pixel_as_a_palette(tmp_path, repairer):
    """The palette is that of visible pixels; one pixel is a palette of one color."""
    values = np.full((32, 48, 4), (60, 90, 150, 255), np.uint8)
    clear = values.copy()
    clear[:, 24:] = (255, 0, 255, 0)
    paths = [tmp_path / name for name in ("plain.png", "clear.png", "one.png")]
    for path, picture in zip(paths, (values, clear, values[:1, :1]), strict=True):
        Image.fromarray(picture).save(path)
    made = [
        restore(Photo(PHOTO), RestoreOptions(colorize=True, like=str(p)), repairer).photo.values
        for p in paths
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_clear_pixels_keep_their_gray_in_color(repairer):
    gray, alpha = PHOTO[..., :1].copy(), np.full(PHOTO.shape[:2], 255, np.uint8)
    gray[:30], alpha[:30] = 201, 0
    made = restore(Photo(gray, alpha), RestoreOptions(colorize=True), repairer)
    assert (made.photo.values[:30] == 201).all()
    assert made.report["largest_change_of_luminance"] <= 1


def test_a_color_may_have_a_name():
    named = RestoreOptions(colorize=True, hints=["3,4,navy"])
    assert named.hints == ((3, 4, "navy"),)
    photo = Photo(np.full((9, 9, 3), 100, np.uint8))
    photo.values[2:4, 3:5] = (255, 0, 0)
    short, long = (
        restore(photo, RestoreOptions(fill_color=c, fill_tolerance=1)).hidden
        for c in ("red", "#f00")
    )
    assert np.array_equal(short, long) and short[2:4, 3:5].all()
