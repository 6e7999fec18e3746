"""Pictures from one format into another, by libvips. Blocking, for threads only, and loaded late; see ``vips``.

Frames, colour profile, transparency and what is up stay as they are, as far as the new format has them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyvips

from lib.delivery import apng
from lib.delivery.encoders import canonical
from lib.delivery.metadata import png_texts
from lib.delivery.pieces import Malformed, arriving
from lib.delivery.vips import STRING, Unusable, open_picture, page_count, reason

_SAVERS = {"png": "pngsave", "jpeg": "jpegsave", "webp": "webpsave", "avif": "heifsave"}
MIME_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
_TEXT_BYTES = 60_000
"""libvips writes no more EXIF than a JPEG could hold."""
_TEXT_TAGS = {"prompt": "exif-ifd0-Model", "workflow": "exif-ifd0-Make"}
"""Where ComfyUI itself keeps them in formats without text chunks, as ``prompt:{...}``; its pages read them there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What became of a picture; dimensions are those of a frame."""

    width: int
    height: int
    warnings: tuple[str, ...] = ()


def convert(
    path: Path, target: Path, *, format_: str, options: Mapping[str, Any], keep_metadata: bool, max_pixels: int
) -> Converted:
    """Write the picture at ``path`` as ``target``, which appears only when it is complete.

    Raises: Unusable.
    """
    encoder = canonical(format_)
    try:
        with arriving(target) as part, _opened(path, part, frames=encoder == "webp", max_pixels=max_pixels) as image:
            texts = png_texts(path) if keep_metadata else None
            lost = _save(image, part, encoder=encoder, options=options, texts=texts)
            warnings = (*_stills(image, path, encoder), *lost)
            return Converted(width=image.width, height=image.get_page_height(), warnings=warnings)
    except (pyvips.Error, OSError, Malformed) as error:
        raise Unusable(reason(error)) from error


@contextmanager
def _opened(path: Path, part: Path, *, frames: bool, max_pixels: int) -> Iterator[pyvips.Image]:
    animation = apng.read(path) if frames else None
    if animation is None:
        yield open_picture(path, max_pixels=max_pixels, frames=frames)
        return
    if animation.width * animation.height * len(animation.frames) > max_pixels:
        raise Unusable(f"{len(animation.frames)} frames are more pixels than CONVERT_MAX_PIXELS allows")
    raw = part.with_name(f"{part.name}.raw")
    try:
        yield apng.unfold(animation, raw)
    finally:
        raw.unlink(missing_ok=True)


def _stills(image: pyvips.Image, path: Path, encoder: str) -> tuple[str, ...]:
    count = apng.frame_count(path) or page_count(image)
    if count == 1 or (encoder == "webp" and image.height > image.get_page_height()):
        return ()
    return (f"only the first of {count} frames is in the {encoder} file",)


def _save(
    image: pyvips.Image, part: Path, *, encoder: str, options: Mapping[str, Any], texts: Mapping[str, str] | None
) -> tuple[str, ...]:
    """Encode; ``texts`` (``None``: metadata goes, but the colour profile) are the text chunks of a PNG."""
    chosen = dict(options)
    background, loop, delay = (chosen.pop(name, None) for name in ("background", "loop", "delay"))
    warnings: tuple[str, ...] = ()
    image = image.copy()
    if encoder == "jpeg":
        image = _opaque(image, background or [255, 255, 255])
    if loop is not None:
        image.set_type(pyvips.GValue.gint_type, "loop", loop)
    if delay is not None and image.height > image.get_page_height():
        count = image.get_n_pages()
        image.set_type(pyvips.GValue.array_int_type, "delay", (delay * count)[:count])
    if texts and encoder != "png":
        image, warnings = _with_texts(image, texts)
    fixed = {"compression": "av1"} if encoder == "avif" else {}
    getattr(image, _SAVERS[encoder])(str(part), keep="icc" if texts is None else "all", **fixed, **chosen)
    return warnings


def _opaque(image: pyvips.Image, background: list[int]) -> pyvips.Image:
    if not image.hasalpha():
        return image
    if image.interpretation != "cmyk":
        image = image.colourspace("srgb")  # grey gets the background's colour, 16 bits become 8
    return image.flatten(background=background)


def _with_texts(image: pyvips.Image, texts: Mapping[str, str]) -> tuple[pyvips.Image, tuple[str, ...]]:
    """Put a PNG's workflow where ComfyUI looks for it in other formats; say what can't be kept."""
    lost = sorted(set(texts) - set(_TEXT_TAGS))
    kept = {name: text for name, text in texts.items() if name in _TEXT_TAGS}
    if sum(len(text) for text in kept.values()) > _TEXT_BYTES or not all(text.isascii() for text in kept.values()):
        lost, kept = sorted(texts), {}
    for name, text in kept.items():
        image.set_type(STRING, _TEXT_TAGS[name], f"{name}:{text}")
    return image, (f"metadata not kept: {', '.join(lost)}",) if lost else ()
