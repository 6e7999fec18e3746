"""Models that requests name by URL, and what Salad's routes say and do about models."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from lib.app.storages import Storages
from lib.app.system_events import deleted, downloaded
from lib.comfy.engine import ComfyEngine
from lib.comfy.models.desk import ModelDesk
from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.index import Index
from lib.comfy.models.inputs import ModelInputs
from lib.comfy.models.library import Library, Limits
from lib.comfy.models.privacy import Privacy
from lib.comfy.ports import Server
from lib.comfy.relearning import Relearning
from lib.delivery.system_events import SystemEvents
from lib.lifecycle import Tasks
from lib.settings import Settings

RECORD = "models.json"
"""In the state folder: which models we downloaded, so that only those go when room is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """``inputs`` for jobs, ``desk`` for routes."""

    inputs: ModelInputs
    desk: ModelDesk


async def open_record(settings: Settings) -> Privacy:
    """Read the record of what was downloaded; return it as what says who is told of it."""
    path = settings.engine.workspace.resolve() / RECORD
    index = Index(path, quota_bytes=settings.salad.models_quota_bytes)
    await asyncio.to_thread(index.load)
    return Privacy(index)


def build_models(
    settings: Settings,
    *,
    storages: Storages,
    servers: Sequence[Server],
    engines: Sequence[ComfyEngine],
    http: aiohttp.ClientSession,
    events: SystemEvents | None,
    tasks: Tasks,
    privacy: Privacy,
) -> Models:
    """Return what brings models; ``events`` hears of each."""
    salad, engine = settings.salad, settings.engine
    folders = ModelFolders(servers, http=http, models_dir=salad.models_dir, timeout_s=engine.request_timeout_s)
    library = Library(
        folders=folders,
        reader=storages.reader,
        rights=storages.sources,
        index=privacy.index,
        limits=Limits(max_bytes=salad.download_model_max_bytes, timeout_s=salad.model_timeout_s),
        tasks=tasks,
        on_new=Relearning(engines, tasks=tasks).changed,
        on_downloaded=downloaded(events),
        on_deleted=deleted(events),
    )
    return Models(
        inputs=ModelInputs(library=library, folders=folders, urls=salad.model_urls, pickles=salad.model_pickles),
        desk=ModelDesk(
            library=library, folders=folders, privacy=privacy, urls=salad.model_urls, pickles=salad.model_pickles
        ),
    )
