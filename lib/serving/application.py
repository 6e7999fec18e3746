"""One aiohttp application a listener, and the one way to put routes on it."""

from collections.abc import Iterable

from aiohttp import web

from lib.serving.access import NO_NEEDS, Access, Door, Need, Needs
from lib.serving.middleware import ErrorRenderer, Missing, OnError, add_request_id, edge
from lib.serving.origins import OriginPolicy


class RouteClash(Exception):
    """Two owners want the same method and path; the text names both."""


class Site:
    """An application under construction: routes are mounted with their owner, its error body, and what they ask of
    callers. Without ``access`` nobody is asked, and nobody is known. ``missing``: see ``edge``."""

    def __init__(
        self,
        *,
        max_body_bytes: int,
        policy: OriginPolicy | None = None,
        access: Access | None = None,
        on_error: OnError = lambda error: None,
        missing: Missing | None = None,
    ) -> None:
        self._renderers: dict[web.AbstractRoute, ErrorRenderer | None] = {}
        self._door = Door(policy=policy, access=access)
        self._owners: dict[tuple[str, str], str] = {}
        self.app = web.Application(
            middlewares=[edge(renderer_of=self._renderer_of, door=self._door, on_error=on_error, missing=missing)],
            client_max_size=max_body_bytes,
        )
        self.app.on_response_prepare.append(add_request_id)

    def mount(
        self,
        routes: Iterable[web.RouteDef],
        *,
        owner: str,
        render_error: ErrorRenderer | None = None,
        needs: Needs = NO_NEEDS,
    ) -> None:
        """Add routes; errors of their handlers get ``render_error``'s body, our own without one; ``needs`` by path.

        Raises: RouteClash."""
        for definition in routes:
            self._claim(definition, owner)
            for route in _registered(definition, self.app.router):
                self._renderers[route] = render_error
                self._door.needs[route] = needs.get(definition.path, Need.KEY)

    def _claim(self, definition: web.RouteDef, owner: str) -> None:
        key = (definition.method.upper(), definition.path)
        if (first := self._owners.setdefault(key, owner)) != owner:
            raise RouteClash(f"{key[0]} {key[1]} is claimed by {first} and by {owner}; mount one of them elsewhere")

    def _renderer_of(self, request: web.Request) -> ErrorRenderer | None:
        return self._renderers.get(request.match_info.route)


def _registered(definition: web.RouteDef, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
    """Register a route and return it with the HEAD route that aiohttp puts beside each GET."""
    routes = definition.register(router)
    beside = [route.resource for route in routes if isinstance(route.resource, web.Resource)]
    return [*routes, *(sibling for resource in beside for sibling in resource if sibling.method == "HEAD")]
