"""What a manifest brings after ComfyUI's start: noted when the host is prepared, brought beside the worker.

``provisioning.beside`` is how the worker has it done.
"""

from pathlib import Path

from provisioning.apply import causes, fetch_files
from provisioning.beside import NOTE, OUTCOME
from provisioning.errors import ProvisioningError
from provisioning.facts import HostFacts
from provisioning.manifest import Manifest
from provisioning.report import Outcome, StepReport
from provisioning.steps import write_text_atomically


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
