"""What must not be cleaned up now: everything of jobs that are not over and delivered."""

import logging
from pathlib import Path

from lib.app.core import Core, link_life_s
from lib.clock import Clock
from lib.settings import Settings
from lib.upkeep.sweep import Areas, own_inputs
from lib.upkeep.worker import Upkeep, limits_of

log = logging.getLogger(__name__)


def build_upkeep(settings: Settings, *, core: Core, clock: Clock) -> Upkeep:
    """The clean-up over the folders of every ComfyUI that we share files with."""
    life_s = link_life_s(settings)
    if settings.upkeep.max_age_s < life_s:
        log.warning(
            "CLEANUP_MAX_AGE_S is %g s: on a full disk files go whose links live for %g s (OUTPUT_URL_EXPIRES_S)",
            settings.upkeep.max_age_s,
            life_s,
            extra={"event": "upkeep.short_age"},
        )
    return Upkeep(
        limits=limits_of(settings.upkeep, settings.storage),
        areas=lambda: areas(core),
        live=lambda: live_paths(core),
        clock=clock,
    )


def areas(core: Core) -> Areas:
    """Folders that we, or ComfyUI for us, write."""
    shared = [server.folders for server in core.servers if server.folders is not None]
    outputs = [folders.output for folders in shared] + [core.workspace / "outputs"]
    return Areas(
        outputs=tuple(dict.fromkeys(outputs)),
        inputs=(*dict.fromkeys(own for folders in shared for own in own_inputs(folders.input)), core.cache),
        temps=tuple(folders.temp for folders in shared if folders.temp is not None),
    )


def output_roots(core: Core) -> tuple[Path, ...]:
    """Folders that files handed out lie in."""
    found = areas(core)
    return (*found.outputs, *found.temps)


def live_paths(core: Core) -> set[str]:
    """Output folders, files and inputs of live jobs."""
    roots = areas(core).outputs
    paths: set[str] = set()
    for job in core.service.live_jobs:
        paths.update(str(root / name) for root in roots for name in (job.spec.request_id, job.job_id))
        paths.update(output.local_path for output in job.outputs if output.local_path)
        paths.update(output.thumbnail_path for output in job.outputs if output.thumbnail_path)
        paths.update(job.inputs)
    return paths
