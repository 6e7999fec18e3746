"""Who asks, and for which endpoint: by the path's ``/e/<name>``, or else by the key."""

from aiohttp import web

from router.access import bearer_of
from router.endpoints import Endpoints, UnknownEndpoint
from router.relay.ports import Visitor

PREFIX = "/e/{endpoint}"
PREFIXES = ("", PREFIX)
"""Every path of the relay is there with and without the endpoint."""


def visitor_of(request: web.Request, endpoints: Endpoints, *, endpoint: str = "") -> Visitor:
    """Who asks. ``endpoint``: the one that a path of another form names. Raises: KeyMissing, UnknownEndpoint (who does
    not reach an endpoint is not told whether it exists)."""
    bearer = bearer_of(request)
    name = endpoint or request.match_info.get("endpoint", "") or bearer.endpoint
    reached = endpoints.reached(bearer)
    if not name and len(reached) == 1:
        name = reached[0].name
    if not name:
        raise UnknownEndpoint("Say which endpoint: put /e/<its name> before the path.")
    if not bearer.reaches(name):
        raise UnknownEndpoint(f"There is no endpoint {name[:64]!r} here.")
    return Visitor(endpoint=endpoints.find(name).name, tenant=bearer.tenant, priority=bearer.priority)
