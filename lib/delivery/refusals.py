"""How a request's mistake is told: with its place in the request, and what was expected there."""

from lib.errors import InvalidRequest

Loc = tuple[str | int, ...]
"""Where in the request, from ``body`` down."""


def dotted(loc: Loc) -> str:
    """``input.webhooks.0.url``, without ``body``."""
    return ".".join(str(part) for part in loc[1:])


def invalid(loc: Loc, text: str) -> InvalidRequest:
    """A 422 that names the place; ``text`` goes on after its name."""
    message = f"{dotted(loc)} {text}"
    return InvalidRequest(message, details={"errors": [{"loc": list(loc), "msg": message, "type": "value_error"}]})
