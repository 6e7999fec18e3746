"""``make demo`` as a newcomer runs it: real processes, the page in a browser, and nothing left when it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from tests.comfyui_fixture import REPOSITORY
from tests.router.page.browser import CHROMIUM, MISSING, Tab, chromium
from tests.router.page.test_in_browser import LIVE, TOO_WIDE, text

END_S = 150.0
SCORE = re.compile(r"score ([\d,.]+)")
LAST_WORDS = "Next: `python -m router`"


@dataclass
class Demo:
    """One that runs; ``said`` is what it printed so far."""

    process: subprocess.Popen[str]
    said: list[str]
    url: str = ""

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"The fleet, live:\s+(http://\S+)/", line):
                self.url = found[1]
                return
        raise AssertionError("".join(self.said))

    def end(self) -> int:
        """Wait for its end; its exit status."""
        rest, _ = self.process.communicate(timeout=END_S)
        self.said.append(rest)
        return self.process.returncode


@contextmanager
def demo(folder: Path, **settings: str) -> Iterator[Demo]:
    """Start it as ``make demo`` does."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "router.demo"],
        cwd=REPOSITORY,
        env={**environment, "DEMO_PORT": "0", "DEMO_DIR": str(folder), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Demo(process=process, said=[])
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            running.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo that is at work; Ctrl-C ends it, cleanly and with a word on what to do next."""
    folder = tmp_path_factory.mktemp("demo")
    with demo(folder) as one:
        one.wait_ready()
        yield one
        one.process.send_signal(signal.SIGINT)
        assert one.end() == 0, "".join(one.said)
    assert LAST_WORDS in one.said[-1]
    assert nothing_runs(folder)


def nothing_runs(folder: Path) -> bool:
    """Whether no process is left that was started for this folder."""
    return [one.pid for one in psutil.process_iter(["cmdline"]) if str(folder) in str(one.info["cmdline"])] == []


async def ask_why(tab: Tab) -> None:
    """Click at a decision until the answer opens: a new one on top moves the others away under the mouse."""
    for _ in range(10):
        await tab.click("#decisions button")
        with suppress(AssertionError):
            return await tab.until("document.querySelector('#why').open", patience_s=6)
    raise AssertionError("the click does nothing")


@pytest.mark.parametrize(("width", "height"), [(1440, 1000), (360, 740)])
async def test_the_page_shows_the_demo_at_work(running: Demo, width: int, height: int) -> None:
    """Three workers, the fastest first, with their models; what they have, what was decided, and why."""
    if CHROMIUM is None:
        pytest.skip(MISSING)
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.size(width, height)
        await tab.open(running.url + "/")
        await tab.until(f"{LIVE} && document.querySelectorAll('#rows tr.ready').length === 3")
        await tab.until(f"{text('#rows .models')}.includes('photo-v3')")
        kinds = await tab.look("[...document.querySelectorAll('#rows th')].map((one) => one.innerText)")
        assert sorted(re.findall(r"RTX \d+", "\n".join(kinds))) == ["RTX 3060", "RTX 3090", "RTX 4090"]
        assert all("stock" not in kind for kind in kinds)
        said = await tab.look("[...document.querySelectorAll('#rows .speed > .sub')].map((one) => one.textContent)")
        scores = [float(found[1].replace(",", "")) for found in map(SCORE.match, said) if found]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        first = await tab.until(f"parseInt({text('#tile-done')})")
        await tab.until(
            f"parseInt({text('#tile-done')}) > {first} && document.querySelectorAll('#decisions li').length > 3"
        )
        await tab.until("document.querySelector('#rows .cell.taken i')?.style.width")
        assert "Load" in await tab.look(text("#endpoints"))
        assert await tab.look(TOO_WIDE) == []
        await ask_why(tab)
        await tab.until(f"{text('#why-table')}.includes('images/') && {text('#why-text')}.includes('images/')")
        assert await tab.look(TOO_WIDE) == []
        assert tab.complaints == []


def test_the_demo_ends_by_itself_and_moves_from_a_taken_port(tmp_path: Path) -> None:
    """After ``DEMO_SECONDS`` of load; its last words are what to do next, and nothing runs on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo(tmp_path, DEMO_PORT=str(port), DEMO_SECONDS="1") as one:
            one.wait_ready()
            assert one.url.rpartition(":")[2] != str(port)
            assert one.end() == 0
    assert f"port {port} is taken" in "".join(one.said)
    assert re.search(r"\d+ pictures made.*\nStopping\.\n", one.said[-1]) and LAST_WORDS in one.said[-1]
    with pytest.raises(requests.ConnectionError):
        requests.get(one.url, timeout=5)
    assert nothing_runs(tmp_path)


def test_the_demo_names_a_bad_variable(tmp_path: Path) -> None:
    """And what would be right."""
    with demo(tmp_path, DEMO_SECONDS="soon") as one:
        assert one.end() == 1
    assert "DEMO_SECONDS='soon'" in one.said[0] and "Next:" in one.said[0]


def test_a_process_that_dies_ends_the_demo_and_is_named(tmp_path: Path) -> None:
    """With the end of its log."""
    with demo(tmp_path) as one:
        one.wait_ready()
        folder = f"--folder={tmp_path}/run/comfyui-2"
        (victim,) = [child for child in psutil.process_iter(["cmdline"]) if folder in (child.info["cmdline"] or ())]
        victim.kill()
        assert one.end() == 1
    assert "FAILED: comfyui-2 ended with status -9" in one.said[-1]
    assert nothing_runs(tmp_path)
