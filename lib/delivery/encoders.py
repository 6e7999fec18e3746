"""What may be asked of the picture encoders: libvips' saver options by their own names and by sharp's, with their types
and ranges. Pure; ``convert`` hands the result to libvips. Seen: libvips 8.18, sharp 0.34.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lib.delivery.refusals import Loc, dotted, invalid

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "png": {},
    "jpeg": {"Q": 80, "optimize_coding": True, "subsample_mode": "on", "background": [255, 255, 255]},
    "webp": {"Q": 80},
    "avif": {"Q": 50, "bitdepth": 8},
}
"""sharp's defaults, and white where JPEG has no transparency. AVIF has 8 bits a channel unless asked: few viewers show
more."""


_Rows = tuple[tuple[str, Callable[[Any], Any], Mapping[str, Any]], ...]
"""Names of one option (libvips' first), check, what it implies."""


class _Wrong(Exception):
    """A value does not fit; the text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One option: libvips' name, the check of its value, and further values that it brings along."""

    name: str
    check: Callable[[Any], Any]
    implies: Mapping[str, Any]


def canonical(format_: str) -> str:
    """The encoder of a format: ``jpg`` is an extension of ``jpeg``'s."""
    return "jpeg" if format_ == "jpg" else format_


def read_options(format_: str, options: Mapping[str, Any], *, loc: Loc) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Check an encoder's options; return them by libvips' names, and warnings about those that change nothing here.

    ``null`` counts as not given. Raises: InvalidRequest naming the field, its value and what was expected.
    """
    encoder = canonical(format_)
    known = _OPTIONS[encoder]
    chosen: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if name in _NO_EFFECT:
            warnings.append(f"{dotted((*loc, name))} has no effect: {_NO_EFFECT[name]}")
            continue
        option = known.get(_key(name))
        if option is None:
            names = ", ".join(sorted({one.name for one in known.values()}))
            raise invalid((*loc, name), f"is not an option of {encoder}; expected one of {names} (or sharp's names)")
        try:
            checked = option.check(value)
        except _Wrong as error:
            raise invalid((*loc, name), f"must be {error}, not {str(value)[:40]!r}") from error
        if checked is not None:
            chosen |= {key: given for key, given in option.implies.items() if checked and key not in chosen}
            if option.name not in _SHORTHANDS:
                chosen[option.name] = checked
    return {**DEFAULTS[encoder], **chosen}, tuple(warnings)


def _key(name: str) -> str:
    return name.replace("_", "").lower().replace("isation", "ization").replace("optimise", "optimize")


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise _Wrong(f"a whole number from {least} to {most}")
        if not least <= value <= most:
            raise _Wrong(f"a whole number from {least} to {most}")
        return int(value)

    return check


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _Wrong("a number from 0 to 1")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _one_of(*values: Any, as_: Mapping[Any, Any] | None = None) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or value not in values:
            raise _Wrong("one of " + ", ".join(str(one) for one in values))
        return (as_ or {}).get(value, value)

    return check


def _colour(value: Any) -> list[int]:
    """``#rgb``, ``#rrggbb`` or three numbers."""
    if isinstance(value, str) and re.fullmatch(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", value):
        digits = value.removeprefix("#")
        digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
        return list(bytes.fromhex(digits))
    if isinstance(value, Mapping):
        value = [value.get(name) for name in ("r", "g", "b")]
    if isinstance(value, list) and len(value) == 3:
        channel = _whole(0, 255)
        return [channel(one) for one in value]
    raise _Wrong("a colour such as #ffffff or [255, 255, 255]")


def _delays(value: Any) -> list[int]:
    one = _whole(0, 65535)
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= 10_000:
        raise _Wrong("milliseconds, one number or one a frame")
    return [one(item) for item in values]


def _only(value: str) -> Callable[[Any], str | None]:
    """A flag of sharp's that is one value of an enumeration of libvips'."""
    return lambda given: value if _flag(given) else None


_SUBSAMPLING = _one_of("auto", "on", "off", "4:2:0", "4:4:4", as_={"4:2:0": "on", "4:4:4": "off"})
_QUALITY = _whole(1, 100)
_SHORTHANDS = frozenset({"mozjpeg"})
"""Names that only stand for others."""
_MOZJPEG = {
    "trellis_quant": True,
    "overshoot_deringing": True,
    "optimize_scans": True,
    "interlace": True,
    "quant_table": 3,
}
_NO_EFFECT = {
    "force": "pictures always get the format that was asked for",
    "resolveWithObject": "it belongs to sharp's own interface",
    "minTransparency": "libvips does not have it",
    "targetSizeTolerance": "libvips does not have it",
}

_JPEG: _Rows = (
    ("Q quality", _QUALITY, {}),
    ("interlace progressive", _flag, {}),
    ("subsample_mode chromaSubsampling", _SUBSAMPLING, {}),
    ("optimize_coding", _flag, {}),
    ("mozjpeg", _flag, _MOZJPEG),
    ("trellis_quant trellisQuantization", _flag, {}),
    ("overshoot_deringing", _flag, {}),
    ("optimize_scans", _flag, {"interlace": True}),
    ("quant_table quantizationTable", _whole(0, 8), {}),
    ("restart_interval", _whole(0, 65535), {}),
    ("background", _colour, {}),
)
_WEBP: _Rows = (
    ("Q quality", _QUALITY, {}),
    ("alpha_q alphaQuality", _whole(0, 100), {}),
    ("lossless", _flag, {}),
    ("near_lossless", _flag, {}),
    ("smart_subsample", _flag, {}),
    ("smart_deblock", _flag, {}),
    ("preset", _one_of("default", "photo", "picture", "drawing", "icon", "text"), {}),
    ("effort reductionEffort", _whole(0, 6), {}),
    ("min_size", _flag, {}),
    ("mixed", _flag, {}),
    ("exact", _flag, {}),
    ("kmin", _whole(0, 2**31 - 1), {}),
    ("kmax", _whole(0, 2**31 - 1), {}),
    ("target_size", _whole(0, 2**31 - 1), {}),
    ("passes", _whole(1, 10), {}),
    ("loop", _whole(0, 65535), {}),
    ("delay", _delays, {}),
)
_AVIF: _Rows = (
    ("Q quality", _QUALITY, {}),
    ("lossless", _flag, {}),
    ("effort", _whole(0, 9), {}),
    ("subsample_mode chromaSubsampling", _SUBSAMPLING, {}),
    ("bitdepth", _one_of(8, 10, 12), {}),
    ("tune", _one_of("auto", "iq", "psnr", "ssim"), {}),
)
_PNG: _Rows = (
    ("compression compressionLevel", _whole(0, 9), {}),
    ("interlace progressive", _flag, {}),
    ("filter", _one_of("none", "sub", "up", "avg", "paeth", "all"), {}),
    ("filter adaptiveFiltering", _only("all"), {}),
    ("palette", _flag, {}),
    ("Q quality", _QUALITY, {"palette": True}),
    ("dither", _fraction, {"palette": True}),
    ("colours colors", _whole(2, 256), {"palette": True}),
    ("effort", _whole(1, 10), {"palette": True}),
    ("bitdepth", _one_of(1, 2, 4, 8, 16), {}),
)


def _table(rows: _Rows) -> dict[str, _Option]:
    """By every name that an option has, as ``_key`` makes them."""
    found: dict[str, _Option] = {}
    for names, check, implies in rows:
        first, *others = names.split()
        option = _Option(name=first, check=check, implies=implies)
        found |= {_key(name): option for name in ([first, *others] if _key(first) not in found else others)}
    return found


_OPTIONS = {"png": _table(_PNG), "jpeg": _table(_JPEG), "webp": _table(_WEBP), "avif": _table(_AVIF)}
FORMATS = ("png", "jpeg", "jpg", "webp", "avif")
