"""The console's side: endpoints and worker groups, as the SDK and the CLI list and make them (``/api/v0``).

What is changed of an endpoint in the operator's file counts until the next start; one that was made here is kept.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from lib.clock import Clock
from lib.errors import InvalidRequest, ServiceError
from lib.serving.payloads import json_response
from lib.settings import SettingsError
from router.access import key_of
from router.endpoint_settings import EndpointSettings, GroupSettings
from router.endpoints import Endpoint, Endpoints, Place, Scope, UnknownEndpoint
from router.keeping import EndpointKeeping
from router.kept import new_secret
from router.wire.answers import SCALING, endpoint_object, group_object
from router.wire.reading import Callers, read_object, whole

ACTIVE = "active"


class Console:
    """The routes."""

    def __init__(self, *, keeping: EndpointKeeping, callers: Callers, clock: Clock) -> None:
        self._keeping = keeping
        self._callers = callers
        self._clock = clock
        self._lock = asyncio.Lock()

    @property
    def _endpoints(self) -> Endpoints:
        return self._keeping.endpoints

    # -- endpoints ----------------------------------------------------------------------------------------------------

    async def endpoints(self, request: web.Request) -> web.Response:
        """Those that the key reaches."""
        body = await read_object(request)
        bearer = self._callers.bearer(request, body)
        found = [self._shown(request, body, endpoint) for endpoint in self._endpoints.reached(bearer)]
        return json_response({"success": True, "results": found})

    async def endpoint(self, request: web.Request) -> web.Response:
        """One of them. Raises: UnknownEndpoint."""
        body = await read_object(request)
        bearer, endpoint = self._callers.bearer(request, body), self._endpoints.by_id(_number(request))
        if not bearer.reaches(endpoint.name):
            raise UnknownEndpoint("There is no such endpoint here.")
        return json_response({"success": True, "result": self._shown(request, body, endpoint)})

    async def add_endpoint(self, request: web.Request) -> web.Response:
        """Make one, with a key of its own. Raises: InvalidRequest, JobConflict."""
        body = await read_object(request)
        self._callers.operator(request, body)
        try:
            settings = EndpointSettings.model_validate({"name": body.get("endpoint_name"), **_scaling(body)})
        except ValidationError as error:
            wrong = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
            raise InvalidRequest(f"These settings of the endpoint can't be used: {', '.join(wrong)}.") from error
        async with self._lock:
            made = self._endpoints.add(settings, api_key=new_secret(), created_at=self._clock.now().timestamp())
            await self._save(made)
        return json_response({"success": True, "result": made.id})

    async def change_endpoint(self, request: web.Request) -> web.Response:
        """Change its scaling. Raises: InvalidRequest, UnknownEndpoint."""
        body = await read_object(request)
        self._callers.operator(request, body)
        if body.get("endpoint_state") not in (None, ACTIVE):
            raise InvalidRequest("This router's endpoints are active; stop their workers, or remove the endpoint.")
        async with self._lock:
            endpoint = self._endpoints.by_id(_number(request))
            if body.get("endpoint_name") not in (None, endpoint.name):
                raise InvalidRequest("An endpoint keeps its name; make another one.")
            await self._save(self._endpoints.change(endpoint, _scaling(body)))
        return json_response({"success": True})

    async def remove_endpoint(self, request: web.Request) -> web.Response:
        """Remove one that was made here. Raises: Forbidden, UnknownEndpoint."""
        self._callers.operator(request, await read_object(request))
        async with self._lock:
            endpoint = self._endpoints.by_id(_number(request))
            self._endpoints.remove(endpoint)
            await self._save(endpoint, here=False)
        return json_response({"success": True})

    # -- groups -------------------------------------------------------------------------------------------------------

    async def groups(self, request: web.Request) -> web.Response:
        """Those of all endpoints that the key reaches; tenants see none."""
        bearer = self._callers.bearer(request, await read_object(request))
        seen = () if bearer.scope is Scope.TENANT else self._endpoints.reached(bearer)
        return json_response({"success": True, "results": [group_object(place) for place in _places(seen)]})

    async def add_group(self, request: web.Request) -> web.Response:
        """Add one to an endpoint; how its workers are started is the operator's configuration, not a template's."""
        body = await read_object(request)
        self._callers.operator(request, body)
        async with self._lock:
            endpoint = self._named(body)
            number = max(place.group.id for place in _places(self._endpoints.all())) + 1
            group = GroupSettings(name=f"group-{number}", id=number, max_workers=whole(body, "max_workers"))
            await self._save(self._endpoints.change(endpoint, {"groups": (*endpoint.settings.groups, group)}))
        return json_response({"success": True, "id": number, "result": number})

    async def change_group(self, request: web.Request) -> web.Response:
        """Change how many workers it may have."""
        body = await read_object(request)
        self._callers.operator(request, body)
        async with self._lock:
            place = self._endpoints.group_by_id(_number(request))
            if (most := whole(body, "max_workers")) is not None:
                changed = place.group.model_copy(update={"max_workers": most})
                await self._save(self._endpoints.change(place.endpoint, {"groups": _with(place, changed)}))
        return json_response({"success": True})

    async def remove_group(self, request: web.Request) -> web.Response:
        """Its workers stay, in the endpoint's first group. Raises: InvalidRequest for the last one."""
        self._callers.operator(request, await read_object(request))
        async with self._lock:
            place = self._endpoints.group_by_id(_number(request))
            left = _with(place, None)
            if not left:
                raise InvalidRequest("An endpoint has one worker group at least; remove the endpoint.")
            await self._save(self._endpoints.change(place.endpoint, {"groups": left}))
        return json_response({"success": True})

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _shown(self, request: web.Request, body: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
        return endpoint_object(endpoint, api_key=self._endpoints.shown_key(endpoint, key_of(request, body)))

    def _named(self, body: Mapping[str, Any]) -> Endpoint:
        number, name = whole(body, "endpoint_id"), body.get("endpoint_name")
        if number:
            return self._endpoints.by_id(number)
        if not isinstance(name, str):
            raise InvalidRequest("Say which endpoint: 'endpoint_id' or 'endpoint_name'.")
        return self._endpoints.find(name)

    async def _save(self, endpoint: Endpoint, *, here: bool = True) -> None:
        try:
            await asyncio.to_thread(self._keeping.save, endpoint, here)
        except SettingsError as error:
            raise ServiceError(f"It counts until the router ends, as it could not be written: {error}") from error


def _number(request: web.Request) -> int:
    return int(request.match_info["id"])


def _scaling(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in SCALING if body.get(name) is not None}


def _places(endpoints: tuple[Endpoint, ...]) -> Iterator[Place]:
    for endpoint in endpoints:
        for group in endpoint.settings.groups:
            yield Place(endpoint=endpoint, group=group)


def _with(place: Place, changed: GroupSettings | None) -> tuple[GroupSettings, ...]:
    """The endpoint's groups, this one changed or left out."""
    groups = ((changed if one.id == place.group.id else one) for one in place.endpoint.settings.groups)
    return tuple(one for one in groups if one is not None)
