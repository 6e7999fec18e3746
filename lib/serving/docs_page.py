"""The page that shows the OpenAPI document, with every asset served by us: no internet needed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from lib.serving.access import Need, Needs
from lib.serving.payloads import json_response

_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon-32x32.png": "image/png"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<style>
.swagger-ui .renderedMarkdown table td:nth-child(3) { min-width: 13rem; }
@media (max-width: 640px) {
  .swagger-ui .wrapper { padding: 0 8px; }
  .swagger-ui .opblock .opblock-summary-control { flex-wrap: wrap; }
  .swagger-ui .opblock .opblock-summary-path { max-width: calc(100% - 8rem); }
  .swagger-ui .opblock .opblock-summary-description { flex-basis: 75%; padding-top: 4px; }
  .swagger-ui .opblock-section-header { flex-wrap: wrap; }
  .swagger-ui table td { overflow-wrap: anywhere; }
  .swagger-ui .renderedMarkdown table td:nth-child(3) { min-width: 5rem; }
  .swagger-ui .renderedMarkdown table td:nth-child(4) { min-width: 4.5rem; }
  .swagger-ui td.parameters-col_name { min-width: 6rem; overflow-wrap: normal; }
  .swagger-ui .response-col_links { display: none; }
  .swagger-ui input, .swagger-ui select, .swagger-ui textarea { max-width: 100%; }
}
</style>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  presets: [SwaggerUIBundle.presets.apis]
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'"
)
"""``blob:`` is how the page shows a picture, sound or video that a route answered with."""


class Docs:
    """``/docs``, ``/openapi.json`` and the page's assets. ``document`` is asked at each request."""

    def __init__(self, document: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._document = document

    def routes(self) -> Sequence[web.RouteDef]:
        """Everything that the page needs."""
        return [
            web.get("/", self._to_page),
            web.get("/docs", self._page),
            web.get("/openapi.json", self._show_document),
            web.get("/docs/start.js", self._start),
            web.get("/docs/{asset}", self._asset),
        ]

    def needs(self) -> Needs:
        """Anybody may read how to ask."""
        return {route.path: Need.FREE for route in self.routes() if isinstance(route, web.RouteDef)}

    async def _to_page(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("docs")

    async def _page(self, request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=_PAGE, content_type="text/html", headers=headers)

    async def _start(self, request: web.Request) -> web.Response:
        return web.Response(text=_START, content_type="text/javascript")

    async def _show_document(self, request: web.Request) -> web.Response:
        return json_response(await self._document())

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        kind = _ASSETS.get(name := request.match_info["asset"])
        if kind is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": kind, "Cache-Control": "public, max-age=86400"}
        return web.FileResponse(await asyncio.to_thread(_asset_path, name), headers=headers)


def _asset_path(name: str) -> Path:
    from swagger_ui_bundle import swagger_ui_path

    return Path(swagger_ui_path) / name
