"""How a request's mistake is told: with its place in the request, and what was expected there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.errors import InvalidRequest

Loc = tuple[str | int, ...]
"""Where in the request, from ``body`` down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Where an API has a block, and what it calls those of its fields that we call otherwise."""

    loc: Loc
    names: Mapping[str, str] = field(default_factory=dict)

    def called(self, name: str) -> str:
        """Return the caller's name for a field of ours."""
        return self.names.get(name, name)

    def at(self, name: str) -> Loc:
        """Return where the caller has a field of ours."""
        return (*self.loc, self.called(name))


def dotted(loc: Loc) -> str:
    """``input.webhooks.0.url``, without ``body``."""
    return ".".join(str(part) for part in loc[1:])


def invalid(loc: Loc, text: str) -> InvalidRequest:
    """A 422 that names the place; ``text`` goes on after its name."""
    message = f"{dotted(loc)} {text}"
    return InvalidRequest(message, details={"errors": [{"loc": list(loc), "msg": message, "type": "value_error"}]})
