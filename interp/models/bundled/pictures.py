"""Pictures to learn from and to be tested on: flags, animals and foods in several drawing styles.

Every icon set is a registry package (name, version and sha256 below), rendered with resvg. One style of each family is
held out of training altogether (circle-flags; Fluent flat) and is what ships as task images; OpenMoji and photographs
are for evaluation only. Needs the extra ``build`` (resvg).
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from interp.errors import CrosstaskError
from interp.models.download import fetch_npm

SIDE = 192  # pixels of a stored drawing, RGBA


@dataclass(frozen=True)
class Style:
    """One drawing style: where it comes from and what it may be used for."""

    name: str
    package: str
    version: str
    sha256: str
    licence: str
    use: str  # "train", "held out" or "evaluate"
    flags: str = ""  # where the flags are: "<iso2>" in a file path, "name" in an icon name, "codepoint", or nothing
    icons: bool = True


STYLES = (
    Style(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "train",
    ),
    Style(
        "noto-v1",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        "train",
    ),
    Style(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "train",
        flags="codepoint",
    ),
    Style(
        "emojione",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        "train",
        flags="name",
    ),
    Style(
        "fxemoji",
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "Apache-2.0",
        "train",
    ),
    Style(
        "streamline",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "CC-BY-4.0",
        "train",
    ),
    Style(
        "flag-icons-4x3",
        "flag-icons",
        "7.5.0",
        "c0b80bf0e08006a60f56621d6bc49f8c7131f4d1fef6737a165a673431f4b518",
        "MIT",
        "train",
        flags="package/flags/4x3/{iso2}.svg",
        icons=False,
    ),
    Style(
        "flag-icons-1x1",
        "flag-icons",
        "7.5.0",
        "c0b80bf0e08006a60f56621d6bc49f8c7131f4d1fef6737a165a673431f4b518",
        "MIT",
        "train",
        flags="package/flags/1x1/{iso2}.svg",
        icons=False,
    ),
    Style(
        "country-flag-icons",
        "country-flag-icons",
        "1.6.20",
        "0b003c0984b53e12a870f0b9a2ccd9821c588c505cf18d7938dabec3ae669808",
        "MIT",
        "train",
        flags="package/3x2/{ISO2}.svg",
        icons=False,
    ),
    Style(
        "circle-flags",
        "circle-flags",
        "2.8.3",
        "a53d254c010bb22955e7823c406ec80b8176ffff05758fd21bf5151512c0e56a",
        "MIT",
        "held out",
        flags="package/flags/{iso2}.svg",
        icons=False,
    ),
    Style(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "held out",
    ),
    Style(
        "openmoji",
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
        "evaluate",
        flags="codepoint",
    ),
)


@dataclass(frozen=True)
class Entity:
    """Something with a name and a picture: a country (its flag), an animal or a food."""

    family: str  # "country", "animal" or "food"
    name: str
    aliases: tuple[str, ...]
    attributes: dict[str, str]  # what training may say of it; never an answer of the six tasks
    icons: tuple[str, ...] = ()
    iso2: str = ""


@dataclass(frozen=True, eq=False)
class Drawing:
    """One rendered icon: which entity, in which style; `pixels` is uint8 [SIDE, SIDE, 4], alpha not premultiplied."""

    entity: Entity
    style: str
    pixels: np.ndarray


def _rows(name: str) -> list[dict[str, str]]:
    with resources.files("interp.models.bundled").joinpath("data", name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def entities() -> tuple[Entity, ...]:
    """All countries, animals and foods that training names, in the order of the tables."""
    found = []
    for family, table in (
        ("country", "countries.csv"),
        ("animal", "attributes_animals.csv"),
        ("food", "attributes_foods.csv"),
    ):
        for row in _rows(table):
            name, iso2 = row.pop("name"), row.pop("iso2", "")
            aliases = tuple(a for a in (row.pop("aliases", "") or "").split("|") if a)
            icons = tuple((row.pop("icons", "") or "").split("|")) if family != "country" else ()
            found.append(Entity(family, name, aliases, row, icons, iso2.lower()))
    return tuple(found)


def _svg(body: str, icon: dict, collection: dict) -> str:
    left, top = icon.get("left", collection.get("left", 0)), icon.get("top", collection.get("top", 0))
    width = icon.get("width", collection.get("width", 16))
    height = icon.get("height", collection.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def render(svg: str, *, side: int = SIDE) -> Image.Image:
    """An SVG text as an RGBA picture of side x side pixels: scaled to fit, centred on a transparent ground."""
    try:
        import resvg_py
    except ImportError as error:
        raise CrosstaskError("rendering the icons needs resvg: pip install 'crosstask[build]'") from error
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    drawing.thumbnail((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return canvas


class IconSet:
    """The SVG texts of one style, read from its package without unpacking it."""

    def __init__(self, style: Style):
        self.style = style
        archive = fetch_npm(style.package, style.version, style.sha256)
        with tarfile.open(archive) as tar:
            wanted = ("package/icons.json", "package/chars.json") if style.package.startswith("@iconify") else None
            self.files = {
                member.name: tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                for member in tar.getmembers()
                if member.isfile() and (member.name in wanted if wanted else member.name.endswith(".svg"))
            }
        self.collection = json.loads(self.files.get("package/icons.json", "{}"))
        self.codepoints = json.loads(self.files.get("package/chars.json", "{}"))

    def icon(self, name: str) -> str | None:
        """The SVG text of an icon (aliases followed), or None when the set lacks it."""
        icons = self.collection.get("icons", {})
        alias = self.collection.get("aliases", {}).get(name, {})
        while name not in icons and alias:
            name = alias["parent"]
            alias = self.collection.get("aliases", {}).get(name, {})
        return _svg(icons[name]["body"], icons[name], self.collection) if name in icons else None

    def of(self, entity: Entity) -> Iterator[str]:
        """All drawings of an entity in this style."""
        if entity.family != "country":
            names = entity.icons if self.style.icons else ()
        elif self.style.flags == "codepoint":
            code = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in entity.iso2)
            names = (self.codepoints.get(code, ""),)
        elif self.style.flags == "name":
            names = tuple(f"flag-for-{n.lower().replace(' ', '-')}" for n in (entity.name, *entity.aliases))[:1]
        elif self.style.flags:
            path = self.style.flags.format(iso2=entity.iso2, ISO2=entity.iso2.upper())
            if path in self.files:
                yield self.files[path]
            return
        else:
            return
        seen = set()
        for name in names:
            svg = self.icon(name)
            if svg and svg not in seen:
                seen.add(svg)
                yield svg


def drawings(use: str, *, cache_folder: Path | None = None) -> list[Drawing]:
    """Render every entity in every style of one use ("train", "held out", "evaluate").

    Args:
        use: Which styles.
        cache_folder: Where rendered pixels are kept as one compressed file a style; None renders anew.

    Returns:
        The drawings, ordered by style and entity.
    """
    found: list[Drawing] = []
    for style in (s for s in STYLES if s.use == use):
        file = cache_folder / f"{style.name}-{style.version}-{SIDE}.npz" if cache_folder else None
        if file is not None and file.exists():
            stored = np.load(file)
            pixels, index = stored["pixels"], stored["entity"]
        else:
            icon_set = IconSet(style)
            pairs = [(i, np.asarray(render(svg))) for i, e in enumerate(entities()) for svg in icon_set.of(e)]
            index, pixels = np.array([i for i, _ in pairs]), np.stack([p for _, p in pairs])
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_suffix(".tmp.npz")
                np.savez_compressed(temporary, pixels=pixels, entity=index)
                temporary.rename(file)
        found += [Drawing(entities()[i], style.name, p) for i, p in zip(index.tolist(), pixels, strict=True)]
    return found
