"""libvips, set up to stay small: pictures are opened as streams, by content, after a look at their header. Blocking,
for threads only; importing this module loads 20 MB of libraries, so ``finish`` does it late.
"""

import logging
import re
from pathlib import Path

import pyvips

STRING = pyvips.GValue.gstr_type
_ANIMATED = frozenset({"gifload_source", "webpload_source"})


class Unusable(Exception):
    """A picture can't be read or written; the text says why, without a path."""


def set_up() -> None:
    """Keep libvips from competing with the GPU's work and from remembering pictures: one thread for each conversion,
    no cache (files of one name differ from job to job), no loaders that are not meant for foreign files."""
    logging.getLogger("pyvips").setLevel(logging.ERROR)  # its warnings are about files, and end in ours
    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    pyvips.block_untrusted_set(True)
    pyvips.operation_block_set("VipsForeignLoadRaw", False)  # our own files, for ``apng``; never chosen by content


def source(path: Path) -> pyvips.Source:
    """Open a file by exactly this name; libvips would read ``[...]`` at the end of a name as options."""
    return pyvips.Source.new_from_file(str(path))


def open_picture(path: Path, *, max_pixels: int, frames: bool = False, random: bool = False) -> pyvips.Image:
    """Open a picture without decoding it, upright; ``frames``: an animation as one tall picture of all its frames.

    Raises: Unusable (too large), pyvips.Error.
    """
    options = {"access": "random" if random else "sequential", "fail_on": "error"}
    image = _checked(pyvips.Image.new_from_source(source(path), "", access="sequential"), max_pixels)
    if frames and image.get_n_pages() > 1 and image.get("vips-loader") in _ANIMATED:
        _checked(image, max_pixels // image.get_n_pages())
        return pyvips.Image.new_from_source(source(path), "", n=-1, **options)
    if _turned(image):  # turning needs pixels in another order than they come
        options["access"] = "random"
    image = pyvips.Image.new_from_source(source(path), "", **options)
    return image.autorot() if _turned(image) else image


def page_count(image: pyvips.Image) -> int:
    """How many frames or pages the file has, also those that are not open."""
    return int(image.get_n_pages())


def reason(error: Exception) -> str:
    """What libvips or the system says, as one line without our folders."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if not isinstance(error, pyvips.Error):
        return str(error)
    lines = [line.strip() for line in (error.detail or "").splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(lines)) or "it is damaged or cut off"
    return re.sub(r"/[^:;]*/", "", text)[:300]


def _turned(image: pyvips.Image) -> bool:
    return "orientation" in image.get_fields() and image.get("orientation") > 1


def _checked(image: pyvips.Image, max_pixels: int) -> pyvips.Image:
    if image.width * image.height > max_pixels:
        raise Unusable(f"{image.width} x {image.height} pixels a frame are more than CONVERT_MAX_PIXELS allows")
    return image
