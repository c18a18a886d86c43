"""Pictures of an episode, each with a line of text, as a file: GIF, MP4, or one PNG or JPEG of some moments.

Pillow writes GIF, PNG and JPEG, imageio with its own ffmpeg MP4.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from policypress.errors import ConfigError, RunError
from policypress.files import write_whole

Size = tuple[int, int]
"""Width and height in pixels."""
Picture = NDArray[np.uint8]
"""(height, width, 3), red, green and blue."""

_STRIP = 18
_FONT = 12
_CAPTION = 240
"""Pixels that a caption takes, at most."""
_COLOURS = 128
_SAMPLES = 16
_MOMENTS, _ACROSS = 6, 960


class Film:
    """Pictures that are kept until they are written: one or more beside each other, each no larger than ``size``, its
    caption below it."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.frames: list[Image.Image] = []
        self._font = ImageFont.load_default(_FONT)

    def add(self, pictures: Sequence[tuple[Picture, str]]) -> None:
        """Pictures and their captions, from left to right; all of a film have the same sizes."""
        panels = [_contained(Image.fromarray(picture), self.size) for picture, _ in pictures]
        widths = [max(panel.width, _CAPTION) for panel in panels]
        height = max(panel.height for panel in panels)
        # MP4 wants even sides.
        frame = Image.new("RGB", (_even(sum(widths)), _even(height + _STRIP)))
        draw, left = ImageDraw.Draw(frame), 0
        for panel, width, (_, caption) in zip(panels, widths, pictures, strict=True):
            frame.paste(panel, (left + (width - panel.width) // 2, 0))
            draw.text((left + 4, height + 2), caption, "white", self._font)
            left += width
        self.frames.append(frame)

    def write(self, out: Path, rate: float) -> None:
        """Writes ``out``, whole or not at all, with ``rate`` frames a second; RunError if that cannot be."""
        content = _WRITERS[out.suffix.lower()](self.frames, rate)
        try:
            write_whole(out, content)
        except OSError as error:
            raise RunError(f"{out} cannot be written ({error.strerror}): choose another --out.") from error


def check_out(out: Path) -> None:
    """Raises ConfigError for a file that no film can be, ModuleNotFoundError if what writes it is missing."""
    if out.suffix.lower() not in _WRITERS:
        raise ConfigError(f"{out} must end in {', '.join(_WRITERS)}: name it so, for example {out.stem}.gif.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}.")
    if out.suffix.lower() == ".mp4":
        importlib.import_module("imageio_ffmpeg")


def _gif(frames: Sequence[Image.Image], rate: float) -> bytes:
    """One palette for all frames: then of each what has changed is kept alone."""
    width, height = frames[0].size
    samples = frames[:: math.ceil(len(frames) / _SAMPLES)]
    together = Image.new("RGB", (width, height * len(samples)))
    for place, frame in enumerate(samples):
        together.paste(frame, (0, height * place))
    palette = together.quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = 10 * max(2, round(100 / rate))  # a GIF counts in hundredths of a second
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=True)
    return buffer.getvalue()


def _mp4(frames: Sequence[Image.Image], rate: float) -> bytes:
    imageio: Any = importlib.import_module("imageio.v2")
    pictures = [np.asarray(frame) for frame in frames]
    found: bytes = imageio.mimwrite(imageio.RETURN_BYTES, pictures, "mp4", fps=rate, macro_block_size=2)
    return found


def _png(frames: Sequence[Image.Image], rate: float) -> bytes:
    return _encoded(_moments(frames), "PNG")


def _jpeg(frames: Sequence[Image.Image], rate: float) -> bytes:
    return _encoded(_moments(frames), "JPEG")


def _moments(frames: Sequence[Image.Image]) -> Image.Image:
    """Some of ``frames`` from the first to the last, row by row."""
    moments = [frames[round(place)] for place in np.linspace(0, len(frames) - 1, min(_MOMENTS, len(frames)))]
    width, height = frames[0].size
    columns = min(len(moments), max(1, _ACROSS // width))
    together = Image.new("RGB", (columns * width, math.ceil(len(moments) / columns) * height))
    for place, moment in enumerate(moments):
        together.paste(moment, (place % columns * width, place // columns * height))
    return together


def _encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, optimize=True)
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Image.Image], float], bytes]] = {
    ".gif": _gif,
    ".mp4": _mp4,
    ".png": _png,
    ".jpg": _jpeg,
}


def _contained(image: Image.Image, size: Size) -> Image.Image:
    """``image`` as large as ``size`` lets it be; small ones keep their pixels."""
    larger = image.width < size[0] and image.height < size[1]
    return ImageOps.contain(image, size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def _even(length: int) -> int:
    return length + length % 2
