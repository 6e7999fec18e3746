"""``python -m tests.router.page.pictures`` makes the pictures in ``docs/images`` anew: the page of the demo at work.

Run it when the page has changed. It takes two minutes, and needs Chromium.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.comfyui_fixture import REPOSITORY
from tests.integration.test_router_page import demo
from tests.router.page.browser import CHROMIUM, MISSING, chromium
from tests.router.page.test_in_browser import LIVE

FOLDER = REPOSITORY / "docs" / "images"
LOOKED_S = 75.0
"""So long the page has been open: its curve shows a whole wave of the load."""
SIZES = {"fleet.png": (1360, 1040, 1.0), "fleet-phone.png": (390, 1180, 2.0)}
BUSY = "document.querySelectorAll('#rows .cell.taken').length > 2 && document.querySelector('#queue li')"


async def take(url: str) -> None:
    """Open the page in all sizes, look for a while, take each picture when there is something to see."""
    async with chromium() as browser:
        tabs = {}
        for name, (width, height, scale) in SIZES.items():
            tab = tabs[name] = await browser.tab()
            await tab.size(width, height, scale=scale)
            await tab.open(url)
            await tab.until(LIVE)
        await asyncio.sleep(LOOKED_S)
        for name, tab in tabs.items():
            await tab.do("Page.bringToFront")
            await tab.until(BUSY, patience_s=LOOKED_S)
            await tab.picture(FOLDER / name)
            sys.stdout.write(f"{FOLDER / name} is written\n")


def main() -> int:
    """Make them; the exit status."""
    if CHROMIUM is None:
        sys.stderr.write(f"{MISSING}\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder, demo(Path(folder), DEMO_LOAD="0.8") as running:
        running.wait_ready()
        asyncio.run(take(f"{running.url}/"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
