"""How the worker has brought what a manifest brings after ComfyUI's start: by a process of its own. Light to import."""

import asyncio
import os
import sys
from pathlib import Path

from provisioning.settings import REPOSITORY

NOTE = Path(".provisioning") / "later.json"
"""What there is to bring, a manifest; absent where there is nothing."""
OUTCOME = Path(".provisioning") / "later-failed.txt"
"""What went wrong the last time; absent where nothing did."""


class Later:
    """A ``lib.app.after_start.Bringer``."""

    def wanted(self, workspace: Path) -> bool:
        """Whether there is anything to bring. Blocks."""
        return (workspace / NOTE).is_file()

    async def bring(self, workspace: Path) -> str | None:
        """Bring it, beside the loop; give what went wrong. Ended when this is cancelled: the next start goes on."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "provisioning", "later", "--workspace", str(workspace)),
            cwd=REPOSITORY,
            env=dict(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # ours may carry the result of --test_input
            start_new_session=True,
        )
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if status == 0:
            return None
        return await asyncio.to_thread(_cause, workspace) or f"it ended with exit status {status}"


def _cause(workspace: Path) -> str:
    try:
        return (workspace / OUTCOME).read_text()
    except FileNotFoundError:
        return ""
