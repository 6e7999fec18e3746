"""Who calls: the operator, the bearer of an API key, or of a token that we issued; and what a route asks of him.

The rule is the configuration's, never the peer's address: behind a proxy on this machine everybody looks local.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from aiohttp import hdrs, web

from lib.errors import Forbidden, Unauthorized
from lib.serving.keyring import ApiKey, KeyRing
from lib.serving.limits import KeyLimits, Seat
from lib.serving.origins import OriginPolicy
from lib.serving.signing import Signer
from lib.settings import AccessSettings, ServerSettings, SettingsError
from lib.telemetry.logs import set_caller

KEY_HEADER = "X-API-Key"
TOKEN_HEADER = "X-Job-Token"  # noqa: S105 - a name
TOKEN_PARAMETER = "job_token"  # noqa: S105 - a name
NO_KEY = "An API key is needed: send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."
HOW_TO_GET_KEYS = (
    "make one with `python -m lib.serving.keys new NAME --file FILE` and set API_KEYS_FILE, or set API_KEYS"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """``tenant`` owns what he submits ("" = the operator); ``owner`` is whose jobs he may read (``None`` = all);
    ``admin`` may see the worker's insides. ``name`` is for logs: the key's, never the key."""

    name: str
    tenant: str = ""
    owner: str | None
    admin: bool = False


OPERATOR = Caller(name="operator", owner=None, admin=True)
BEARER = Caller(name="job token", owner=None)
"""Somebody with the token of the job that the path names; no other job is within his reach there."""
CALLER = web.RequestKey("caller", Caller)
_SEAT = web.RequestKey("seat", Seat)


class Need(StrEnum):
    """What a route asks of its caller before it is called."""

    FREE = "free"
    """Nothing; with a good key he is known all the same."""
    LINK = "link"
    """Nothing: the handler checks a signed link, or else ``caller_of``."""
    KEY = "key"
    SUBMIT = "submit"
    """A key, and that its limits leave room for one more: a job, or files for one."""
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
        raise KeyMissing(NO_KEY)
    return caller


class Access:
    """Says who a caller of the API listener is. Without arguments everybody is the operator.

    ``required``: without a key nobody gets in, save by a link or token of ours. Otherwise who shows no key is the
    operator. A wrong key is refused always, once there are keys at all.
    """

    def __init__(
        self,
        *,
        keys: KeyRing | None = None,
        required: bool = False,
        signer: Signer | None = None,
        limits: KeyLimits | None = None,
    ) -> None:
        self._keys = keys
        self._required = required
        self._signer = signer
        self._limits = limits

    @property
    def required(self) -> bool:
        """Whether who shows no key is turned away."""
        return self._required

    async def admit(self, request: web.Request, need: Need) -> None:
        """Put the caller on the request. Raises: KeyMissing, Forbidden, RateLimited."""
        key = await self._key(request)
        caller = self._caller(request, key)
        if caller is None:
            if need not in (Need.FREE, Need.LINK):
                raise KeyMissing(NO_KEY)
            return
        request[CALLER] = caller
        set_caller(caller.name)
        if need is Need.ADMIN and not caller.admin:
            raise Forbidden("This needs a key with the scope admin.")
        if need is Need.SUBMIT and key is not None and self._limits is not None:
            request[_SEAT] = self._limits.take(key)

    def release(self, request: web.Request) -> None:
        """The request is over."""
        if self._limits is not None and (seat := request.get(_SEAT)) is not None:
            self._limits.give_back(seat)

    async def _key(self, request: web.Request) -> ApiKey | None:
        given = _given(request.headers)
        if given is None or self._keys is None or not (self._keys or self._required):
            return None
        key = await self._keys.find(given)
        if key is None:
            raise KeyMissing("This API key is not known here.")
        return key

    def _caller(self, request: web.Request, key: ApiKey | None) -> Caller | None:
        if key is None and not self._required:
            return OPERATOR
        if (key is None or not key.admin) and self.has_token(request):
            return BEARER
        if key is None:
            return None
        return Caller(name=key.name, tenant=key.tenant, owner=None if key.admin else key.tenant, admin=key.admin)

    def has_token(self, request: web.Request) -> bool:
        """Whether the request shows the token of the job that its path names."""
        token = token_of(request)
        if self._signer is None or not token:
            return False
        named = request.match_info.get("job_id") or request.match_info.get("request_id")
        return bool(named) and self._signer.job_token_valid(str(named), token)


class Door:
    """What stands before every route of a listener: who may talk to it at all, and who calls."""

    def __init__(self, *, policy: OriginPolicy | None, access: Access | None) -> None:
        self._policy = policy
        self._access = access
        self.needs: dict[web.AbstractRoute, Need] = {}

    async def enter(self, request: web.Request) -> None:
        """Let the request in, before its body is read. Raises: KeyMissing, Forbidden, RateLimited."""
        need = self._need(request)
        if self._policy is not None:
            try:
                self._policy.check(request)
            except Forbidden:
                if need is Need.LINK and "signature" in request.query:
                    return  # a page may show a picture that it has a link to; it is nobody, and gets nothing else
                raise
        if self._access is not None:
            await self._access.admit(request, need)

    def leave(self, request: web.Request) -> None:
        """The request is over."""
        if self._access is not None:
            self._access.release(request)

    def _need(self, request: web.Request) -> Need:
        """What the route asks for. A method that a free path does not have is told to everybody; which other paths
        there are is not."""
        need = self.needs.get(request.match_info.route)
        if need is not None:
            return need
        free = (route.resource for route, asked in self.needs.items() if asked is Need.FREE)
        return Need.FREE if any(path is not None and path.canonical == request.path for path in free) else Need.KEY


def token_of(request: web.Request) -> str:
    """Return the job token that a request shows: ``X-Job-Token``, or ``?job_token=`` where headers can't be set."""
    return request.headers.get(TOKEN_HEADER) or request.query.get(TOKEN_PARAMETER, "")


def keys_required(server: ServerSettings, access: AccessSettings, *, key_count: int) -> bool:
    """Decide whether the API listener asks everybody for a key.

    Raises: SettingsError where it must and there are no keys, or would be open beyond this machine unasked.
    """
    beyond = not is_loopback(server.api_host)
    if key_count:
        return beyond or access.required
    if access.required:
        raise SettingsError(f"API_KEYS_REQUIRED=true: there are no API keys; {HOW_TO_GET_KEYS}.")
    if beyond and not server.api_allow_open:
        raise SettingsError(
            f"API_HOST={server.api_host}: beyond loopback the API listener needs API keys; {HOW_TO_GET_KEYS}. Or keep "
            "it on loopback and reach it through SSH port forwarding, or set API_ALLOW_OPEN=true if the network in "
            "front of it is trusted."
        )
    return False


def _given(headers: Mapping[str, str]) -> str | None:
    if (key := headers.get(KEY_HEADER)) is not None:
        return key.strip()
    scheme, blank, value = headers.get(hdrs.AUTHORIZATION, "").strip().partition(" ")
    if not blank:  # the key alone, as some of RunPod's clients send it
        return scheme or None
    return value.strip() if scheme.lower() == "bearer" else None


def is_loopback(host: str) -> bool:
    """Tell whether a listener on ``host`` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
