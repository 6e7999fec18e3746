"""What a manifest brings after ComfyUI's start: noted when the host is prepared, brought in a process of its own beside
the worker, which tells the outcome at ``/health`` and does not depend on it.
"""

import asyncio
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from provisioning.apply import causes, fetch_files
from provisioning.errors import ProvisioningError
from provisioning.facts import HostFacts
from provisioning.manifest import Manifest
from provisioning.report import Outcome, StepReport
from provisioning.settings import REPOSITORY
from provisioning.steps import write_text_atomically

NOTE = Path(".provisioning") / "later.json"
OUTCOME = Path(".provisioning") / "later-failed.txt"


def note(workspace: Path, manifest: Manifest) -> None:
    """Remember what there is to bring; nothing, too."""
    (workspace / OUTCOME).unlink(missing_ok=True)
    if manifest.models or manifest.files:
        write_text_atomically(workspace / NOTE, manifest.model_dump_json(), mode=0o600)
    else:
        (workspace / NOTE).unlink(missing_ok=True)


def bring(facts: HostFacts) -> tuple[StepReport, ...]:
    """Download what was noted. Raises ProvisioningError with the causes of all that failed and had to be."""
    noted = facts.workspace / NOTE
    (facts.workspace / OUTCOME).unlink(missing_ok=True)
    if not noted.is_file():
        return ()
    steps = fetch_files(Manifest.model_validate_json(noted.read_bytes()), facts)
    failures = [step for step in steps if step.status is Outcome.FAILED and not step.optional]
    if failures:
        write_text_atomically(facts.workspace / OUTCOME, causes(failures))
        raise ProvisioningError(causes(failures), remedy="Start again to go on: what is done is kept.")
    return steps


class Later:
    """How the worker has it done; a ``lib.app.after_start.Bringer``."""

    def wanted(self, workspace: Path) -> bool:
        """Whether there is anything to bring. Blocks."""
        try:
            noted = Manifest.model_validate_json((workspace / NOTE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return False
        return bool(noted.models or noted.files)

    async def bring(self, workspace: Path) -> str | None:
        """Bring it, beside the loop; give what went wrong. Ended when this is cancelled: the next start goes on."""
        arguments = ("-m", "provisioning", "later", "--workspace", str(workspace))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
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
