"""Color profiles: applied where a picture is converted, kept where it is not."""

import itertools
import struct

import numpy as np
from PIL import Image

from sfumato import image
from sfumato.data.photo import Photo, read, write
from sfumato.tasks.restore.batch import side_by_side


def cmyk_profile():
    """A small ICC profile (version 2) in which the inks are duller than pure RGB colors.

    It holds a table of Lab values for full and no ink (ICC.1:2001-04, section 6.5.8, lut8Type).
    """

    def lab(c, m, y, k):
        light = 100 * (1 - 0.35 * c) * (1 - 0.45 * m) * (1 - 0.1 * y) * (1 - 0.8 * k)
        a, b = 45 * m - 20 * c, 50 * y - 30 * c
        return round(light * 2.55), round(a * (1 - k)) + 128, round(b * (1 - k)) + 128

    grid = bytes(v for inks in itertools.product((0, 1), repeat=4) for v in lab(*inks))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (k % 4 == 0) for k in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + grid + 3 * ramp
    words = b"small inks\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(words)) + words + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    parts = {b"desc": text, b"wtpt": white, b"A2B0": table}
    start = 128 + 4 + 12 * len(parts)
    index, body = struct.pack(">I", len(parts)), b""
    for name, part in parts.items():
        part = part.ljust(-(-len(part) // 4) * 4, b"\0")
        index += name + struct.pack(">II", start + len(body), len(part))
        body += part
    head = bytearray(128)
    head[:4] = struct.pack(">I", start + len(body))
    head[8:12] = bytes([2, 0x40, 0, 0])
    head[12:24] = b"prtrCMYKLab "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    return bytes(head) + index + body


def test_the_profile_of_cmyk_is_applied(tmp_path):
    """Pure cyan ink is not the cyan of a screen, and four inks are read as `image.read` reads."""
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[:4, :, 0], inks[4:, :, 3] = 255, 255
    picture = Image.fromarray(inks, "CMYK")
    for suffix in (".tif", ".jpg"):
        path = tmp_path / f"inks{suffix}"
        picture.save(path, icc_profile=cmyk_profile())
        photo = read(path)
        assert np.array_equal(photo.values, np.asarray(image.read(path)))
        assert photo.values[0, 0, 0] < 150, "a dull cyan"
        assert photo.values[0, 0, 2] < 240
        assert 20 < photo.values[7, 0].mean() < 80, "black ink on paper is a dark gray"
        assert photo.profile is None
        assert "CMYK was converted to sRGB with its color profile" in photo.notes
    picture.save(tmp_path / "plain.tif")
    assert read(tmp_path / "plain.tif").values[0, 0].tolist() == [0, 255, 255]


def test_a_webp_gets_no_profile_of_a_gray_picture(tmp_path):
    """WebP stores gray as RGB."""
    gray = Photo(np.full((4, 4, 1), 90, np.uint8), profile=b"a gray profile")
    assert write(gray, tmp_path / "a.webp") == ["WEBP cannot store the color profile"]
    assert read(tmp_path / "a.webp").profile is None
    assert write(gray, tmp_path / "a.png") == []


def test_a_comparison_shows_transparent_pixels_in_white_and_keeps_the_profile():
    values, alpha = np.full((4, 6, 3), 200, np.uint8), np.full((4, 6), 255, np.uint8)
    values[0], alpha[0] = (255, 0, 255), 0
    photo = Photo(values, alpha, profile=b"wide")
    both = side_by_side(photo, photo.with_values(values // 2))
    assert both.profile == b"wide"
    assert (both.values[0] == 255).all()
    assert both.values[1, 0].tolist() == [200] * 3
    assert both.values[1, -1].tolist() == [100] * 3
    assert side_by_side(photo, Photo(values)).profile is None
