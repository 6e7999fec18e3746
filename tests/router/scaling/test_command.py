"""A provider that is a program: what it is told, what it answers, and what is made of its failures."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from router.scaling.command import CommandLine
from router.scaling.ports import Instance, InstanceState, Launch, ProviderFailed

LAUNCH = Launch(endpoint="images", group="cloud", environment={"MASTER_TOKEN": "token-0123456789"})
TELLS = """cat >{asked}; echo '{{"instances": [{{"id": 17, "state": "stopped", "price": 0.8, "detail": "i-0abc"}}]}}'"""


def program(text: str, *, timeout_s: float = 20.0, environment: Mapping[str, str] | None = None) -> CommandLine:
    return CommandLine(
        ("/bin/sh", "-c", text, "fleet"),
        endpoint="images",
        group="cloud",
        environment={"PATH": "/usr/bin:/bin", **(environment or {})},
        options={"region": "eu-west-1"},
        timeout_s=timeout_s,
        fresh_s=20.0,
        keeps_stopped=True,
        secrets=["token-0123456789"],
    )


@pytest.mark.parametrize("action", ["start", "list", "remove", "restart", "stop", "resume"])
async def test_each_action_is_one_object_on_standard_input(tmp_path: Path, action: str) -> None:
    """With the fields that docs/scaling.md names; the workers' environment only where one begins."""
    asked = tmp_path / "asked"
    fleet = program(TELLS.format(asked=asked))
    calls = {
        "start": lambda: fleet.start(2, LAUNCH),
        "list": fleet.list,
        "remove": lambda: fleet.remove(17),
        "restart": lambda: fleet.restart(17, LAUNCH),
        "stop": lambda: fleet.stop(17),
        "resume": lambda: fleet.resume(17, LAUNCH),
    }
    found = await calls[action]()
    about = {"action": action, "endpoint": "images", "group": "cloud", "options": {"region": "eu-west-1"}}
    more = {"count": 2} if action == "start" else {"id": 17} if action != "list" else {}
    given = {"environment": {**LAUNCH.environment}} if action in ("start", "resume", "restart") else {}
    assert json.loads(asked.read_text()) == about | more | given
    told = Instance(id=17, state=InstanceState.STOPPED, price=0.8, detail="i-0abc")
    assert found == ([told] if action in ("start", "list") else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo no money for token-0123456789 >&2; exit 3", "ended with 3: no money for [*]{3}$"),
        ("exit 1", "ended with 1: it said nothing"),
        ("echo '[]'", "did not answer 'list' with a list of instances"),
        ('echo \'{"instances": [{"id": "seventeen"}]}\'', "did not answer 'list' with a list of instances"),
        ('echo \'{"instances": [{"id": 1, "state": "asleep"}]}\'', "did not answer 'list' with a list of instances"),
        ("kill -9 $$", "ended with -9"),
    ],
)
async def test_what_went_wrong_is_told(text: str, words: str) -> None:
    """By its own last words, without secrets."""
    with pytest.raises(ProviderFailed, match=words):
        await program(text).list()


async def test_a_program_that_is_not_there_is_told() -> None:
    """By its name."""
    fleet = CommandLine(
        ("/nowhere/fleet.py",),
        endpoint="images",
        group="cloud",
        environment={},
        options={},
        timeout_s=1.0,
        fresh_s=1.0,
        keeps_stopped=False,
    )
    with pytest.raises(ProviderFailed, match=r"/nowhere/fleet\.py can.t be run"):
        await fleet.list()


async def test_one_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    """Nothing of it runs on."""
    pids = tmp_path / "pids"
    fleet = program(f"sleep 600 & echo $! >{pids}; wait", timeout_s=3.0)
    with pytest.raises(ProviderFailed, match="no answer within 3 s"):
        await fleet.list()
    await _ends(int(pids.read_text()))


async def test_one_whose_caller_is_cancelled_is_ended(tmp_path: Path) -> None:
    """The router stops meanwhile."""
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    asking = asyncio.create_task(program(f"echo $$ >{fifo}; exec sleep 600").list())
    pid = int(await asyncio.to_thread(fifo.read_text))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await _ends(pid)


async def _ends(pid: int) -> None:
    """A process that was killed has a moment to go."""
    async with asyncio.timeout(60):
        while _runs(pid):
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
