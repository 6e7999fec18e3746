"""Running the SDK's driver from a test."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.environment import peer_python

HERE = Path(__file__).parent
RAISED = 3
"""Exit status of the driver when the package raised; the last result says what."""


def sdk_python() -> Path:
    """Return the interpreter that has the SDK. Blocks while it is installed for the first time."""
    return peer_python("vast", HERE / "requirements.txt")


async def drive(
    python: Path,
    scenario: str,
    *,
    router: str,
    timeout_s: float = 150.0,
    environment: Mapping[str, str] | None = None,
    raises: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run a scenario against a router; return its results. ``options`` become flags (what is no text as JSON)."""
    flags = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    process = await asyncio.create_subprocess_exec(
        python,
        str(HERE / "driver.py"),
        scenario,
        f"--router={router}",
        *flags,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.communicate()  # its end is only noticed once its pipes are read
        raise
    assert process.returncode == (RAISED if raises else 0), out.decode()[-2000:] + err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]
