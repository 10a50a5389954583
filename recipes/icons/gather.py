"""Create the captioned training pictures of the recipe from icon packages.

    pip install --no-deps resvg-py
    python recipes/icons/gather.py build/icons/icons64.parquet [--packages build/packages]
        [--size 64] [--compare icons64_train.parquet]

The packages are downloaded with npm and apt-get into --packages, unless they are already in this
folder: @iconify/json, emojibase-data, emojilib and unicode-emoji-json, and Debian's
openclipart-svg. ``list.tsv.gz`` lists the icons to use. A row holds ``set:icon``, the emoji that
the icon shows, and the icon's name if the name does not follow from the first two (for example
after a corrected spelling or a removed addition). Everything else comes from the packages: drawing,
license, author, keywords, and the names of emoji. Colors are measured in the pictures.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from render import picture, png

LIST = Path(__file__).parent / "list.tsv.gz"
NPM = {
    "iconify": "@iconify/json@2.2.535",
    "emojibase": "emojibase-data@17.0.0",
    "emojilib": "emojilib@4.0.3",
    "unicode": "unicode-emoji-json@0.9.0",
}
DEBIAN = "openclipart-svg"
CLIP_LICENSE = "CC0-1.0 (public domain dedication)"  # of every drawing in the Debian package
# prompt words for the style of a set, or of the icons of a set that have an ending (set-ending)
PHRASES = {
    "icon-park": "bold black outline icon with blue fill",
    "openclipart": "clip art drawing",
    "noto": "Noto emoji",
    "twemoji": "Twemoji flat emoji",
    "fluent-emoji": "Fluent 3D emoji",
    "fluent-emoji-flat": "Fluent flat emoji",
    "noto-v1": "classic Noto blob emoji",
    "emojione": "EmojiOne emoji",
    "streamline-freehand-color": "hand-drawn sketch icon",
    "streamline-ultimate-color": "detailed outline colour icon",
    "streamline-color": "indigo outline icon",
    "streamline-color-flat": "flat blue icon",
    "glyphs-poly": "flat pastel icon",
    "streamline-emojis": "Streamline cartoon emoji",
    "marketeq": "thin blue outline icon",
    "fxemoji": "Firefox emoji",
    "streamline-cyber-color": "navy outline icon",
    "streamline-flex-color": "rounded indigo outline icon",
    "streamline-flex-color-flat": "rounded flat blue icon",
    "streamline-plump-color": "plump indigo outline icon",
    "streamline-plump-color-flat": "plump flat blue icon",
    "streamline-sharp-color": "sharp indigo outline icon",
    "streamline-sharp-color-flat": "sharp flat blue icon",
    "flat-color-icons": "flat colour icon",
    "streamline-kameleon-color": "flat colour icon in a circle",
    "streamline-kameleon-color-duo": "flat blue icon in a circle",
    "fluent-color": "Fluent gradient icon",
    "meteocons": "line weather icon",
    "meteocons-fill": "filled weather icon",
    "streamline-stickies-color": "colourful sticker",
    "streamline-stickies-color-duo": "two-colour sticker",
    "flat-ui": "Flat UI illustration",
}
FINER = 4  # factor by which an icon is rendered larger than it is stored
MOST_KEYWORDS = 20
NO_TAGS = {"hash", "icon", "icons", "theme", "computer", "clipart"}
WORD = re.compile(r"[a-z][a-z’' \-]+")
DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
# upper limit of the hue in degrees, and the name of saturated colors below it
HUES = ((18, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (200, "cyan"), (258, "blue"))
HUES_ABOVE = ((300, "purple"), (340, "pink"), (361, "red"))


@dataclass(frozen=True)
class Listed:
    """A row of the list.

    Attributes
    ----------
    id : str
        ``set:icon``.
    emoji : str
        Code points such as ``1F46E``, joined by hyphens; empty if the icon shows no emoji.
    name : str
        Empty if the name follows from the other two fields and the packages.
    """

    id: str
    emoji: str
    name: str

    @property
    def parts(self) -> tuple[str, str]:
        """The set and the icon."""
        prefix, _, own = self.id.partition(":")
        return prefix, own

    @property
    def style(self) -> str:
        """The set, with the ending of the icon if the style depends on the ending."""
        prefix, own = self.parts
        ending = own.rpartition("-")[2]
        return f"{prefix}-{ending}" if f"{prefix}-{ending}" in PHRASES else prefix


def listed() -> list[Listed]:
    """Return the rows of the list."""
    with gzip.open(LIST, "rt", encoding="utf-8") as file:
        return [Listed(*line.rstrip("\n").split("\t")) for line in file]


class Packages:
    """The information about icons in the packages.

    Parameters
    ----------
    folder : Path
        Folder with one subfolder per package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.iconify, self.clip = folder / "iconify" / "package", folder / "clip"
        emojis = _json(folder / "emojibase" / "package" / "en" / "data.json")
        self.said = _json(folder / "emojilib" / "package" / "dist" / "emoji-en-US.json")
        self.emojis = {plain(one["hexcode"]): one for one in emojis}
        self.named = {one["label"].lower(): one for one in reversed(emojis)}
        groups = _json(folder / "unicode" / "package" / "data-by-emoji.json")
        self.groups = {
            plain("-".join(f"{ord(sign):04X}" for sign in emoji)): _slug(about["group"])
            for emoji, about in groups.items()
        }

    @functools.cache  # noqa: B019
    def about(self, prefix: str) -> dict[str, Any]:
        """Author and license of a set."""
        info: dict[str, Any] = _json(self.iconify / "json" / f"{prefix}.json")["info"]
        return info

    def name(self, row: Listed) -> str:
        """What an icon shows: the emoji's name, the drawing's title, or the icon's own name."""
        if row.name:
            return row.name
        prefix, own = row.parts
        if row.emoji in self.emojis:
            return emoji_name(self.emojis[row.emoji]["label"])
        if prefix == "openclipart":
            return clip_name(self.title(own))
        return icon_name(own.removesuffix(row.style.removeprefix(prefix)))

    def keywords(self, row: Listed, name: str) -> list[str]:
        """Return words for the subject of an icon.

        They are the words of its emoji, or of the emoji with this name; for a drawing, its tags.
        """
        if row.parts[0] == "openclipart":
            return [word for word in self.tags(row.parts[1]) if word != name]
        emoji = self.emojis.get(row.emoji) or self.named.get(name)
        if emoji is None:
            return []
        more = [word.replace("_", " ") for word in self.said.get(emoji["emoji"], [])]
        words = [*emoji.get("tags", []), *(word for word in more if WORD.fullmatch(word))]
        return [word for word in dict.fromkeys(words) if word != name][:MOST_KEYWORDS]

    def category(self, row: Listed) -> str:
        """Return the category of an icon: the group of its emoji, of the icon or of the drawing."""
        prefix, own = row.parts
        if row.emoji:
            return self.groups.get(row.emoji, "")
        if prefix == "openclipart":
            return f"clipart-{own.partition('/')[0]}"
        return f"ui-{self.kinds(prefix).get(own, 'other')}"

    @functools.cache  # noqa: B019
    def kinds(self, prefix: str) -> dict[str, str]:
        """The category of each icon of a set."""
        found = _json(self.iconify / "json" / f"{prefix}.json").get("categories", {})
        return {icon: _slug(kind) for kind, icons in found.items() for icon in icons}

    @functools.cache  # noqa: B019
    def drawing(self, own: str) -> ET.Element:
        """Return the RDF metadata of an openclipart SVG."""
        tree = ET.parse(self.clip / "usr/share/openclipart/svg" / f"{own}.svg")
        found = tree.find(f".//{RDF}RDF")
        return ET.Element("none") if found is None else found

    def title(self, own: str) -> str:
        """Return the title of a drawing, or its file name if it has no title."""
        said = self.drawing(own).findtext(f"*/{DC}title") or ""
        return said.strip() or own.rpartition("/")[2].replace("_", " ")

    def tags(self, own: str) -> list[str]:
        """Return the tags of a drawing that describe its subject."""
        said = [(one.text or "").lower() for one in self.drawing(own).iterfind(f".//{RDF}li")]
        return [word for word in said if WORD.fullmatch(word) and word not in NO_TAGS]

    def maker(self, own: str) -> str:
        """Return the author of a drawing."""
        return self.drawing(own).findtext(f"*/{DC}creator/*/{DC}title") or ""

    def described(self, row: Listed) -> dict[str, Any]:
        """Return all columns of a row except the picture and its colors."""
        (prefix, own), name = row.parts, self.name(row)
        if prefix == "openclipart":
            author, license_id = self.maker(own), CLIP_LICENSE
        else:
            info = self.about(prefix)
            author, license_id = info["author"]["name"], info["license"]["spdx"]
        phrase = PHRASES[row.style]
        return {
            "id": row.id,
            "caption": f"{name}, {phrase}",
            "name": name,
            "style": row.style,
            "style_phrase": phrase,
            "set": prefix,
            "licence": license_id,
            "author": author,
            "keywords": self.keywords(row, name),
            "category": self.category(row),
        }


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _slug(title: str) -> str:
    """Return a title in lower case, with hyphens between words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", title)
    return "-".join(re.findall(r"[a-z0-9]+", apart.lower()))


def plain(code: str) -> str:
    """Return code points without the variation selector FE0F, which requests emoji presentation."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def emoji_name(label: str) -> str:
    """Return the name of an emoji in the form that captions use.

    Examples
    --------
    >>> emoji_name("family: man, girl, girl"), emoji_name("three o’clock")
    ('family of man, girl and girl', "three o'clock")
    """
    name = re.sub(r"[“”]", "", label.lower().replace("’", "'"))
    name = re.sub(r"^keycap: ", "keycap ", name)
    name = re.sub(r": (\w+ hair|bald)$", r" with \1", name)
    name = re.sub(r": beard$", " with a beard", name)
    name = name.replace(": ", " of ")
    return re.sub(r", (?=[^,]+$)", " and ", name) if " of " in name else name


def clip_name(title: str) -> str:
    """Return the title of a drawing in lower case."""
    return re.sub(r"\s+", " ", re.sub(r"[_\s]+", " ", title.lower())).strip()


def icon_name(own: str) -> str:
    """Return the name of an icon without the suffix of a variant."""
    name = re.sub(r"-alt$", "", re.sub(r"-\d+$", "", own))
    name = re.sub(r"-\d+$", "", name)
    return re.sub(r"-(one|two|three|four|five)$", "", name).replace("-", " ")


def colors(drawn: Image.Image, most: int = 3) -> list[str]:
    """Return the colors that cover at least a fifth of the non-white pixels, largest first."""
    values = np.asarray(drawn.convert("RGB"), float).reshape(-1, 3) / 255
    ink = values[(values < 0.95).any(axis=1)]
    if not len(ink):
        return ["white"]
    counts = Counter(_color(*one) for one in rgb_to_hsv(ink))
    return [name for name, count in counts.most_common(most) if count >= len(ink) / 5]


def _color(hue: float, saturation: float, value: float) -> str:
    if value < 0.25:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "gray"
    name = next(name for limit, name in (*HUES, *HUES_ABOVE) if 360 * hue < limit)
    return "brown" if name == "orange" and value < 0.65 else name


def fetched(folder: Path) -> Packages:
    """Return the packages; download the packages that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for own, name in NPM.items():
        place = folder / own
        if not place.exists():
            packed = subprocess.run(
                ["npm", "pack", name, "--silent"], cwd=folder, check=True, stdout=subprocess.PIPE
            )
            place.mkdir()
            archive = folder / packed.stdout.decode().split()[-1]
            subprocess.run(["tar", "xzf", str(archive), "-C", str(place)], check=True)
            archive.unlink()
    if not (folder / "clip").exists():
        subprocess.run(["apt-get", "download", DEBIAN], cwd=folder, check=True)
        (archive,) = folder.glob(f"{DEBIAN}*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "clip")], check=True)
        archive.unlink()
    return Packages(folder)


def drawn(row: dict[str, Any], iconify: Path, clip: Path, size: int) -> dict[str, Any] | None:
    """Return a row with its picture and its colors; None if the icon cannot be rendered."""
    large = picture(row["id"], iconify, clip, FINER * size)
    if large is None:
        return None
    made = large.reduce(FINER)
    return {"image": png(made), **row, "colors": colors(made)}


def gathered(packages: Packages, size: int) -> Iterator[dict[str, Any]]:
    """Yield all rows; at the end, print the number of missing icons per set."""
    rows = [packages.described(row) for row in listed()]
    work = functools.partial(drawn, iconify=packages.iconify, clip=packages.clip, size=size)
    missing: Counter[str] = Counter()
    with Pool() as pool:
        for row, made in zip(rows, pool.imap(work, rows, chunksize=32), strict=True):
            if made is None:
                missing[row["set"]] += 1
            else:
                yield made
    print(f"{len(rows) - missing.total()} of {len(rows)} icons; missing: {dict(missing)}")


def compare(made: Path, other: Path) -> None:
    """Print how many rows equal another file's in each column, and how much pictures differ."""
    ours, theirs = (
        {row["id"]: row for row in pq.read_table(path).to_pylist()} for path in (made, other)
    )
    both = [one for one in ours if one in theirs]
    print(f"{len(both)} of {len(ours)} rows are in {other.name}")
    for column in ("name", "style_phrase", "licence", "author"):
        print(f"{column}: {sum(ours[k][column] == theirs[k][column] for k in both)} are equal")
    for column in ("keywords", "colors"):
        equal = sum(set(ours[k][column]) == set(theirs[k][column]) for k in both)
        print(f"{column}: {equal} are equal")
    far = [_distance(ours[k]["image"], theirs[k]["image"]) for k in both]
    print(
        f"pictures: {sum(d < 1 for d in far)} differ by less than 1 (of 255), "
        f"{sum(d < 12 for d in far)} by less than 12"
    )


def _distance(a: bytes, b: bytes) -> float:
    one, two = (np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), float) for x in (a, b))
    return float(np.sqrt(((one - two) ** 2).mean())) if one.shape == two.shape else 255.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, default=Path("build/packages"))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--compare", type=Path)
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    found = list(gathered(fetched(given.packages), given.size))
    pq.write_table(pa.Table.from_pylist(found), given.output)
    if given.compare:
        compare(given.output, given.compare)
