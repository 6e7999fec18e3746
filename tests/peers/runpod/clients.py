"""Running the drivers of RunPod's clients from a test. They know nothing of our code: their target is an address."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.environment import peer_node, peer_python

HERE = Path(__file__).parent
ENDPOINT = "any-endpoint"
Told = list[dict[str, Any]]
"""What a driver printed: one object a result, with its ``kind``."""


def sdk_python() -> Path:
    """Return the interpreter that has the ``runpod`` package. Blocks while it is installed for the first time."""
    return peer_python("runpod", HERE / "requirements.txt")


def sdk_node() -> Path:
    """Return the folder that has npm's ``runpod-sdk``. Blocks while it is installed for the first time."""
    return peer_node("runpod-node", HERE / "package.json")


def drive_python(python: Path, scenario: str, base: str, body: Mapping[str, Any], **options: Any) -> Told:
    """Run a scenario of ``driver.py`` against ``<base>/v2``; ``body`` is what would be posted (``input``, ...)."""
    return _drive([str(python), str(HERE / "driver.py"), scenario], base, body, options)


def drive_node(folder: Path, scenario: str, base: str, body: Mapping[str, Any], **options: Any) -> Told:
    """The same with ``driver.mjs``. It comes on standard input, so that packages are looked for in ``folder``."""
    program = (HERE / "driver.mjs").read_text(encoding="utf-8")
    command = ["node", "--input-type=module", "-", scenario]
    return _drive(command, base, body, options, folder=folder, program=program)


def _drive(
    command: list[str],
    base: str,
    body: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    folder: Path | None = None,
    program: str = "",
) -> Told:
    setup = {"base": f"{base}/v2", "endpoint": ENDPOINT, "body": body, "key": "no key", **options}
    done = subprocess.run(
        command,
        cwd=folder,
        input=program,
        env={**os.environ, "PEER_SETUP": json.dumps(setup)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def one(told: Told, kind: str) -> dict[str, Any]:
    """The only result of a kind."""
    (found,) = [item for item in told if item["kind"] == kind]
    return found
