"""Who calls: the operator, the bearer of an API key, or of a token that we issued; and what a route asks of him.

The rule is the configuration's, never the peer's address: behind a proxy on this machine everybody looks local.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from aiohttp import web

from lib.errors import Unauthorized
from lib.serving.origins import OriginPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """``tenant`` owns what he submits ("" = the operator); ``admin`` sees everybody's jobs and the worker's insides.
    ``name`` is for logs: the key's, never the key."""

    name: str
    tenant: str = ""
    admin: bool = False

    @property
    def owner(self) -> str | None:
        """Whose jobs he may read; ``None`` = all."""
        return None if self.admin else self.tenant


OPERATOR = Caller(name="operator", admin=True)
CALLER = web.RequestKey("caller", Caller)


class Need(StrEnum):
    """What a route asks of its caller before it is called."""

    FREE = "free"
    """Nothing; with a good key he is known all the same."""
    LINK = "link"
    """Nothing: the handler checks a signed link, or else ``caller_of``."""
    KEY = "key"
    SUBMIT = "submit"
    """A key, and that its limits leave room for a job."""
    ADMIN = "admin"


Needs = Mapping[str, Need]
"""By path, as it is registered; a path that is not named asks for a key."""
NO_NEEDS: Needs = MappingProxyType({})


class KeyMissing(Unauthorized):
    """No API key, or a wrong one; answered with ``WWW-Authenticate``."""


def caller_of(request: web.Request) -> Caller:
    """Return who called. Raises: KeyMissing where nobody is known: on a free route without a key, or on a listener
    that has no ``Access`` (the public one: tokens and signatures say there what may be seen)."""
    caller: Caller | None = request.get(CALLER)
    if caller is None:
        raise KeyMissing("An API key is needed: send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'.")
    return caller


class Access:
    """Says who a caller of the API listener is. Without arguments everybody is the operator."""

    async def admit(self, request: web.Request, need: Need) -> None:
        """Put the caller on the request. Raises: KeyMissing, Forbidden, RateLimited."""
        request[CALLER] = OPERATOR


class Door:
    """What stands before every route of a listener: who may talk to it at all, and who calls."""

    def __init__(self, *, policy: OriginPolicy | None, access: Access | None) -> None:
        self._policy = policy
        self._access = access
        self.needs: dict[web.AbstractRoute, Need] = {}

    async def enter(self, request: web.Request) -> None:
        """Let the request in, before its body is read. Raises: KeyMissing, Forbidden, RateLimited."""
        if self._policy is not None:
            self._policy.check(request)
        if self._access is not None:
            await self._access.admit(request, self.needs.get(request.match_info.route, Need.KEY))

    def leave(self, request: web.Request) -> None:
        """The request is over."""
