"""The router's own docs page: ``/docs`` and ``/openapi.json``, from what its parts say of their routes. The page at
``/`` is the fleet's."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from lib.serving.access import Needs
from lib.serving.docs_page import Docs
from lib.serving.openapi import Operation, build

TITLE = "comfyui-pyworker router"
DESCRIPTION = """Gives each request to the worker that is expected to finish it first.

Keys: the operator's reaches all, an endpoint's its endpoint, a tenant's its own requests. `ROUTER_OPEN_PAGE` says who
may look without one. Every path of the relay is also there below `/e/{endpoint}`.
"""


class Describing:
    """The routes, and the document that they show."""

    def __init__(self, operations: Sequence[Operation], *, version: str) -> None:
        self._operations = operations
        self._version = version
        self._made: dict[str, Any] | None = None
        self._docs = Docs(self._document)

    def routes(self) -> Sequence[web.RouteDef]:
        return [route for route in self._docs.routes() if route.path != "/"]

    def needs(self) -> Needs:
        """Anybody may read how to ask."""
        return self._docs.needs()

    async def _document(self) -> Mapping[str, Any]:
        if self._made is None:
            self._made = build(
                title=TITLE,
                version=self._version,
                description=DESCRIPTION,
                operations=self._operations,
                keys_required=True,
            )
        return self._made
