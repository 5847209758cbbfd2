"""Drawings: fetch three emoji sets with npm, rasterise the vocabulary, keep one tensor."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import resvg_py
import torch
from PIL import Image

from heliostat.pretrain.checkpoint import load_named, save_tensors
from heliostat.pretrain.vocabulary import NOUNS
from heliostat_engines.files.text import read_json

if TYPE_CHECKING:
    from pathlib import Path

# Pinned: another release draws other pictures, and the weights could not be reproduced.
PACKAGES: dict[str, str] = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
    "twemoji": "@iconify-json/twemoji@1.2.5",
}
RASTER_PX = 128


@dataclass(frozen=True)
class Drawings:
    """The vocabulary as pictures: rgba[S, K, RASTER_PX, RASTER_PX, 4] uint8, not premultiplied.

    S is the number of drawing sets, in the order of `sets`; K the nouns, in `NOUNS` order.
    """

    rgba: npt.NDArray[np.uint8]
    sets: tuple[str, ...]

    def picture(self, drawing_set: str, name: str) -> Image.Image:
        """One drawing, cropped to what is painted and padded to a square."""
        noun = next(index for index, noun in enumerate(NOUNS) if noun.singular == name)
        image = Image.fromarray(self.rgba[self.sets.index(drawing_set), noun], "RGBA")
        return _squared(image)


def load_drawings(data: Path) -> Drawings:
    """The drawings, fetched and rasterised on the first call and read from `data` later."""
    path = data / "drawings.safetensors"
    if not path.exists():
        _fetch(data)
        drawn = np.stack([_rasterise_set(data, name) for name in PACKAGES])
        save_tensors(path, {"rgba": torch.from_numpy(drawn)})
    (rgba,) = load_named(path, "rgba")
    return Drawings(rgba.numpy(), tuple(PACKAGES))


def _fetch(data: Path) -> None:
    """Install the drawing sets under data/node_modules, unless they are there."""
    if all(_icons_path(data, name).exists() for name in PACKAGES):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            "npm was not found: it fetches the drawings the demo is pretrained on. "
            "Install Node.js, or run `npm install "
            f"{' '.join(PACKAGES.values())}` elsewhere and copy node_modules to {data}."
        )
    data.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(data), "--no-audit", "--no-fund"]
    subprocess.run([*command, *PACKAGES.values()], check=True)


def _icons_path(data: Path, drawing_set: str) -> Path:
    package = PACKAGES[drawing_set].rpartition("@")[0]
    return data / "node_modules" / package / "icons.json"


def _rasterise_set(data: Path, drawing_set: str) -> npt.NDArray[np.uint8]:
    """One set's vocabulary, rgba[K, RASTER_PX, RASTER_PX, 4]."""
    collection = read_json(_icons_path(data, drawing_set))
    side = collection["width"]
    return np.stack([_rasterise(collection["icons"][noun.drawing]["body"], side) for noun in NOUNS])


def _rasterise(body: str, side: int) -> npt.NDArray[np.uint8]:
    """An icon's SVG body on its `side` x `side` canvas, as rgba[RASTER_PX, RASTER_PX, 4]."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER_PX, height=RASTER_PX)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def _squared(image: Image.Image) -> Image.Image:
    """Crop to the painted box, centre it in the smallest square around it."""
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError("a drawing is empty; delete drawings.safetensors and fetch again")
    painted = image.crop(box)
    side = max(painted.size)
    square = Image.new("RGBA", (side, side))
    square.paste(painted, ((side - painted.width) // 2, (side - painted.height) // 2))
    return square
