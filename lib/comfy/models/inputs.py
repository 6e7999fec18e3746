"""Models that graphs name by URL: brought in before the job runs, the URL replaced by what ComfyUI calls the file."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from lib.comfy.fields import Path
from lib.comfy.models.fields import REPOSITORIES, ModelSite
from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.library import Held, Library, Obtained, Wish
from lib.errors import EngineUnreachable, InvalidRequest, ServiceError, UnsafeInput
from lib.jobs.model import Job
from lib.jobs.ports import Aside, Tell
from lib.settings import Who

AT_ONCE = 4
"""Models of one job that are fetched at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """``names``: what to write into the graph; ``holds`` keep the files while a job is not over."""

    names: Mapping[Path, str]
    holds: tuple[Held, ...] = ()


class ModelInputs:
    """``urls`` and ``pickles`` say whose jobs may bring models, and formats that can hold code."""

    def __init__(self, *, library: Library, folders: ModelFolders, urls: Who, pickles: Who) -> None:
        self._library = library
        self._folders = folders
        self._urls: Who = urls
        self._pickles: Who = pickles
        self._taken: set[tuple[str, str, str]] = set()
        """Files that ComfyUI was seen to take, by class and input."""

    async def bring(self, found: Sequence[ModelSite], job: Job, *, tell: Tell, aside: Aside = nullcontext) -> Brought:
        """Bring in what of these URLs are models; the others are left as they are. The job steps ``aside`` while they
        are on their way.

        Raises: InvalidRequest, UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable, with ``field`` and
        ``node_id`` in their details."""
        turns = asyncio.Semaphore(AT_ONCE)
        brought: dict[Path, Obtained] = {}

        async def one(site: ModelSite) -> None:
            async with turns:
                try:
                    if (obtained := await self._obtained(site, job, tell, aside)) is not None:
                        brought[site.path] = obtained
                except ServiceError as error:
                    raise _placed(error, site) from error

        try:
            async with asyncio.TaskGroup() as group:
                for site in found:
                    group.create_task(one(site))
        except ExceptionGroup as errors:
            known, _ = errors.split(ServiceError)
            raise (known or errors).exceptions[0] from errors
        names = {path: obtained.name for path, obtained in brought.items()}
        return Brought(names=names, holds=tuple(obtained.held for obtained in brought.values()))

    async def _obtained(self, site: ModelSite, job: Job, tell: Tell, aside: Aside) -> Obtained | None:
        if REPOSITORIES.get(site.class_type) == site.field:
            text = (
                f"{site.label}: {site.class_type} reads a folder of files; git repositories are not fetched here, "
                "name a folder of ComfyUI's models/diffusers"
            )
            raise InvalidRequest(text, details={"reason": "repository"})
        folder = await self._folders.folder_of(site)
        if folder is None:
            return None
        spec = job.spec
        if not allowed(self._urls, owner=spec.owner, stranger=spec.stranger):
            text = f"{site.label}: models by URL are not downloaded here for this caller (MODEL_URLS={self._urls})"
            raise UnsafeInput(text, details={"reason": "model_url"})
        nobody = spec.stranger and not spec.owner
        wish = Wish(
            url=site.value,
            field=site.label,
            credentials=spec.credentials,
            owner=None if nobody else spec.owner,
            dialect=spec.dialect,
            pickles=allowed(self._pickles, owner=spec.owner, stranger=spec.stranger),
        )
        obtained = await self._library.obtain(wish, folder, tell=tell, aside=aside)
        await self._check_taken(site, obtained, folder)
        return obtained

    async def _check_taken(self, site: ModelSite, obtained: Obtained, folder: str) -> None:
        """Say now, and in a way that helps, what ComfyUI would say of a value that is not in its list."""
        key = (site.class_type, site.field, obtained.name)
        if key in self._taken:
            return
        with suppress(EngineUnreachable):
            if not await self._folders.lists(site, obtained.name):
                text = (
                    f"{site.label}: the model is here as {obtained.name} in {folder}, but ComfyUI does not list it for "
                    f"{site.class_type}: it takes files of another kind, or reads another folder (MODEL_DIR)"
                )
                raise InvalidRequest(text, details={"reason": "not_listed", "expected": f"a model of kind {folder}"})
            self._taken.add(key)


def allowed(who: Who, *, owner: str, stranger: bool) -> bool:
    """Whether a setting's word covers a caller: the operator, a tenant with a key, or somebody whom nobody knows."""
    if who in ("off", "any"):
        return who == "any"
    return (not owner and not stranger) or (who == "known" and bool(owner))


def _placed(error: ServiceError, site: ModelSite) -> ServiceError:
    details = {**error.details, "field": site.label, "node_id": site.node_id, "class_type": site.class_type}
    return type(error)(error.message, details=details)
