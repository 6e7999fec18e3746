"""Headless Chromium over its DevTools protocol: opens pages, looks, clicks, takes pictures. Not a test framework.

Standalone: ``python -m tests.router.page.browser URL --out shot.png [--size 1440x1000] [--scale 2] [--dark]``.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "Chromium is not installed (Debian: apt-get install chromium)"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--remote-debugging-port=0", "--mute-audio", "--no-default-browser-check"),
)
PATIENCE_S = 60.0


@dataclass
class Tab:
    """One page. ``complaints`` is what its console said: errors, warnings, uncaught exceptions, refused requests."""

    _link: "Link"
    _session: str
    complaints: list[str] = field(default_factory=list)
    _shown: str = ""
    _turned: asyncio.Event = field(default_factory=asyncio.Event)

    async def do(self, method: str, **options: Any) -> dict[str, Any]:
        return await self._link.call(method, options, session=self._session)

    async def open(self, url: str) -> None:
        """Come back when it is the new page that is looked at."""
        before = self._shown
        told = await self.do("Page.navigate", url=url)
        assert "errorText" not in told, told
        await self._another(before)

    async def reload(self) -> None:
        before = self._shown
        await self.do("Page.reload")
        await self._another(before)

    async def _another(self, before: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self._shown == before:
                self._turned.clear()
                await self._turned.wait()

    async def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        await self.do("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme])

    async def look(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        told = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, *, patience_s: float = PATIENCE_S) -> Any:
        """Wait until the expression is true; its value. The browser looks at each change of the page."""
        script = f"""new Promise((done, fail) => {{
            const look = () => {{
                let found = null;
                try {{ found = ({expression}); }} catch {{ return; }}
                if (found) {{ end(); done(found); }}
            }};
            const watch = new MutationObserver(look);
            const late = setTimeout(() => {{ end(); fail(new Error("it never was: " + {json.dumps(expression)}
                + "; the page says: " + document.body?.innerText.slice(0, 2000))); }}, {patience_s * 1000});
            const end = () => {{ watch.disconnect(); clearTimeout(late); }};
            const all = {{subtree: true, childList: true, attributes: true, characterData: true}};
            watch.observe(document, all); look();
        }})"""
        return await self.look(script)

    async def click(self, selector: str) -> None:
        """With the mouse, where the element is."""
        place = await self.look(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            x, y = place
            await self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def type(self, text: str) -> None:
        """Into what has the focus."""
        await self.do("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "char", "keyUp"):
            said = {"text": "\r"} if key == "Enter" and kind == "char" else {}
            if kind != "char" or said:
                await self.do(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said
                )

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        shot = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def heard(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.frameNavigated" and "parentId" not in told["frame"]:
            self._shown = told["frame"]["loaderId"]
            self._turned.set()
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"])[:500])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")


class Link:
    """The socket to the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def call(self, method: str, options: dict[str, Any], *, session: str = "") -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        at = {"sessionId": session} if session else {}
        await self._socket.send_json({"id": number, "method": method, "params": options, **at})
        told = await asyncio.wait_for(answer, PATIENCE_S + 10)
        assert "error" not in told, (method, told)
        return dict(told["result"])

    async def listen(self) -> None:
        async for frame in self._socket:
            told = json.loads(frame.data)
            if (answer := self._waiting.pop(told.get("id", 0), None)) is not None and not answer.done():
                answer.set_result(told)
            elif (tab := self._tabs.get(told.get("sessionId", ""))) is not None:
                tab.heard(told["method"], told["params"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the browser is gone"))

    async def tab(self) -> Tab:
        """A new one, with storage of its own."""
        context = (await self.call("Target.createBrowserContext", {}))["browserContextId"]
        target = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await tab.do(f"{domain}.enable")
        return tab


@asynccontextmanager
async def chromium() -> AsyncIterator[Link]:
    """A browser of our own; it ends with the block."""
    assert CHROMIUM is not None, MISSING
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"), stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE_S * 2):
                url = await _announced(process)
            async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0) as socket:
                link = Link(socket)
                listening = asyncio.create_task(link.listen())
                try:
                    yield link
                finally:
                    with contextlib.suppress(ConnectionError, TimeoutError):
                        await link.call("Browser.close", {})
                    await listening
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def _announced(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = []
    async for line in process.stderr:
        said.append(line.decode(errors="replace"))
        if "DevTools listening on " in said[-1]:
            return said[-1].partition("listening on ")[2].strip()
    raise AssertionError("".join(said))


async def _shoot(options: argparse.Namespace) -> None:
    width, height = map(int, options.size.split("x"))
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.size(width, height, dark=options.dark, scale=options.scale)
        await tab.open(options.url)
        await tab.until("document.querySelector('#link').dataset.state === 'live'")
        await asyncio.sleep(options.wait)
        if options.run:
            await tab.look(options.run)
            await asyncio.sleep(1)
        await tab.picture(options.out, whole=options.whole)
        print("\n".join(tab.complaints) or "no complaints")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A picture of the router's page.")
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="1440x1000")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--wait", type=float, default=3.0)
    parser.add_argument("--run", default="", help="JavaScript to do before the picture is taken")
    asyncio.run(_shoot(parser.parse_args()))
