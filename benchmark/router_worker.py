"""A worker that does nothing, as a process: it answers every request at once. ``python -m benchmark.router_worker``."""

import sys

import uvloop
from aiohttp import web

MOST_BYTES = 16 * 1024 * 1024
ANSWER = (
    b'{"id": "00000000-0000-0000-0000-000000000000", "status": "completed", "message": "Processing complete.", '
    b'"comfyui_response": {}, "output": [], "timings": {}}'
)


async def answer(request: web.Request) -> web.Response:
    """The same for everybody, once the request is read."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


def main() -> None:
    """The port is the first argument."""
    app = web.Application(client_max_size=MOST_BYTES)
    app.router.add_route("*", "/{path:.*}", answer)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
