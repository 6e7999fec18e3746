"""The page itself: one HTML file with its style and its program inside, and a policy that allows these two only."""

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import hdrs, web

FOLDER = Path(__file__).parent / "static"
STYLE, PROGRAM = "/* style */", "/* program */"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Served at ``/`` to everybody: there is nothing of the fleet in it."""

    text: str = field(repr=False)
    policy: str
    tag: str

    async def show(self, request: web.Request) -> web.Response:
        """The page, or word that the reader's copy is still good."""
        headers = {
            "Content-Security-Policy": self.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            hdrs.CACHE_CONTROL: "no-cache",
            hdrs.ETAG: f'"{self.tag}"',
        }
        if any(tag.value == self.tag for tag in request.if_none_match or ()):
            return web.Response(status=web.HTTPNotModified.status_code, headers=headers)
        return web.Response(text=self.text, content_type="text/html", headers=headers)


def load_document() -> Document:
    """Put the three files together. Blocks."""
    frame, style, program = (
        (FOLDER / name).read_text(encoding="utf-8") for name in ("fleet.html", "fleet.css", "fleet.js")
    )
    text = frame.replace(STYLE, style).replace(PROGRAM, program)
    policy = {
        "default-src": "'none'",
        "script-src": _hashed(program),
        "style-src": _hashed(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Document(
        text=text,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        tag=hashlib.sha256(text.encode()).hexdigest()[:32],
    )


def _hashed(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"'sha256-{digest}'"
