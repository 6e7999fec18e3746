"""Small copies of pictures, by libvips: the first frame, upright, in sRGB, without metadata. Videos get none, since
libvips does not read them. Blocking, for threads only, and loaded late; see ``vips``.
"""

from pathlib import Path

import pyvips

from lib.delivery.encoders import canonical
from lib.delivery.pieces import arriving
from lib.delivery.vips import Unusable, open_picture, reason, source

_QUALITY = 80


def thumbnail(path: Path, target: Path, *, width: int, height: int, format_: str, max_pixels: int) -> None:
    """Write a copy of at most ``width`` x ``height`` pixels as ``target``; a smaller picture keeps its size.

    Raises: Unusable.
    """
    try:
        open_picture(path, max_pixels=max_pixels)
        small = pyvips.Image.thumbnail_source(
            source(path), width, height=height, size="down", output_profile="srgb", fail_on="error"
        )
        with arriving(target) as part:
            if canonical(format_) == "jpeg":
                small = small.flatten(background=[255, 255, 255]) if small.hasalpha() else small
                small.jpegsave(str(part), Q=_QUALITY, keep="none")
            else:
                small.webpsave(str(part), Q=_QUALITY, keep="none")
    except (pyvips.Error, OSError) as error:
        raise Unusable(reason(error)) from error
