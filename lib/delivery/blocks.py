"""Reading the blocks of a request: what counts as given, which names and numbers and URLs pass.

An empty string or ``null`` counts as not given, since published examples send blocks full of them.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lib.delivery.refusals import Fields, Loc, dotted, invalid
from lib.errors import UnsafeInput
from lib.storage.guard import MAX_URL_CHARS, AddressGuard

INPUT: Loc = ("body", "input")


def given(block: Mapping[str, Any] | None, loc: Loc) -> dict[str, Any]:
    """Return what a block says. Raises: InvalidRequest."""
    if block is not None and not isinstance(block, Mapping):
        raise invalid(loc, "must be an object")
    return {name: value for name, value in (block or {}).items() if value not in ("", None)}


def known(said: Mapping[str, Any], names: tuple[str, ...], fields: Fields) -> None:
    """Refuse a field of another name. Raises: InvalidRequest."""
    for name in said:
        if name not in names:
            raise invalid(fields.at(name), f"is not known; expected {', '.join(map(fields.called, names))}")


def bounded(value: Any, most: float, *, loc: Loc) -> float:
    """Return a number, from 1 to ``most``. Raises: InvalidRequest."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(loc, "must be a number")
    return min(max(float(value), 1.0), most)


def check_url(url: Any, guard: AddressGuard | None, *, loc: Loc, own: bool = True) -> None:
    """Refuse what is no http URL, or plainly leads inwards; ``own``: our own URLs may be named too.

    Raises: InvalidRequest, UnsafeInput.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) and len(url) <= MAX_URL_CHARS else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise invalid(loc, "must be an http or https URL")
    if guard is None or (own and guard.is_own(url)):
        return
    try:
        guard.check_url(url)
    except UnsafeInput as error:
        field = dotted(loc)
        raise UnsafeInput(f"{field}: {error.message}", details={"field": field, **error.details}) from error
