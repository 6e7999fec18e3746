"""The folder of workflow files, mounted: its endpoints by name, what is wrong with the others, changes noticed.

A change counts for the first request that comes ``check_interval_s`` after the last look. The folder is looked through
on request, not watched: that works on network volumes and bind mounts, where no notification arrives, needs no thread,
and takes well under a millisecond.
"""

import asyncio
import logging
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from lib.clock import Clock, SystemClock
from lib.errors import Overloaded
from lib.workflow.endpoints.coded import fault_of, forget_code, load_code
from lib.workflow.endpoints.declared import FileProblem
from lib.workflow.endpoints.endpoint import Endpoint
from lib.workflow.endpoints.finding import Source, broken, choose, load_declared, look_closer
from lib.workflow.endpoints.running import ForeignError, Runner
from lib.workflow.endpoints.scan import CODE, Group, Problem, ProblemKind, scan_folder
from lib.workflow.template import TemplateError

log = logging.getLogger(__name__)
CHECK_INTERVAL_S = 1.0
LIMIT_S = 10.0
LOAD_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    group: Group
    endpoint: Endpoint | None = None
    problems: tuple[Problem, ...] = ()
    again: bool = False


class WorkflowFolder:
    """Endpoints of one folder. ``refresh`` before looking; nothing is known before the first one.

    ``limit_s``: how long a file's code may take for one input; ``load_limit_s``: to be imported.
    """

    def __init__(
        self,
        root: Path,
        *,
        runner: Runner | None = None,
        clock: Clock | None = None,
        check_interval_s: float = CHECK_INTERVAL_S,
        limit_s: float = LIMIT_S,
        load_limit_s: float = LOAD_LIMIT_S,
    ) -> None:
        self._root = root
        self._runner = runner or Runner()
        self._clock = clock or SystemClock()
        self._interval_s, self._limit_s, self._load_limit_s = check_interval_s, limit_s, load_limit_s
        self._checked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._endpoints: Mapping[str, Endpoint] = MappingProxyType({})
        self._problems: tuple[Problem, ...] = ()
        self._version = 0

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """All endpoints by name, as of the last ``refresh``; the mapping itself never changes."""
        return self._endpoints

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Files that are no endpoints, as of the last ``refresh``."""
        return self._problems

    @property
    def version(self) -> int:
        """Counts changes: a document made of the endpoints holds as long as it stays."""
        return self._version

    async def find(self, name: str) -> Endpoint | None:
        """Return the endpoint of a name (a decoded path, ``sdxl/txt2img``), fresh from the folder."""
        await self.refresh()
        return self._endpoints.get(unicodedata.normalize("NFC", name))

    async def refresh(self) -> None:
        """Look through the folder, unless that was done a moment ago, and load what changed."""
        if self._is_fresh():
            return
        async with self._one_at_a_time:
            if not self._is_fresh():
                await self._load_changes()
                self._checked_at = self._clock.monotonic()

    def _is_fresh(self) -> bool:
        return self._clock.monotonic() < self._checked_at + self._interval_s

    async def _load_changes(self) -> None:
        scan = await asyncio.to_thread(scan_folder, self._root)
        before = self._loaded
        kept = {
            name: loaded
            for name, loaded in before.items()
            if scan.groups.get(name) == loaded.group and not loaded.again
        }
        for name in before.keys() - kept.keys():
            _forget(before[name].group)
        changed = [group for name, group in scan.groups.items() if name not in kept]
        self._loaded = kept
        self._publish(tuple(scan.problems))
        loaded = await asyncio.gather(*map(self._load, changed))
        self._loaded = dict(sorted({**kept, **{item.group.name: item for item in loaded}}.items()))
        self._publish(tuple(scan.problems))

    def _publish(self, found: tuple[Problem, ...]) -> None:
        loaded = self._loaded.values()
        endpoints = {item.group.name: item.endpoint for item in loaded if item.endpoint is not None}
        problems = (*found, *(problem for item in loaded for problem in item.problems))
        if endpoints == self._endpoints and problems == self._problems:
            return
        for problem in problems:
            if problem not in self._problems:
                level = logging.WARNING if problem.kind is ProblemKind.BROKEN else logging.INFO
                facts = {"event": "workflow.problem", "file": problem.file, "problem": problem.text}
                log.log(level, "a workflow file is no endpoint", extra=facts)
        self._endpoints, self._problems = MappingProxyType(endpoints), problems
        self._version += 1

    async def _load(self, group: Group) -> _Loaded:
        chosen = choose(group)
        if chosen is None:
            chosen = await asyncio.to_thread(look_closer, group)
        if not isinstance(chosen, Source):
            return _Loaded(group=group, problems=() if chosen is None else (chosen,))
        try:
            endpoint = await self._endpoint(group.name, chosen)
        except (TemplateError, ForeignError, TimeoutError, OSError, Overloaded) as error:
            return _Loaded(group=group, problems=(self._problem(chosen, error),), again=isinstance(error, Overloaded))
        log.info("workflow endpoint mounted", extra={"event": "workflow.mounted", "workflow": group.name})
        return _Loaded(group=group, endpoint=endpoint)

    async def _endpoint(self, name: str, source: Source) -> Endpoint:
        if source.inputs is not None:
            return await asyncio.to_thread(load_declared, source.main, source.inputs, name=name)
        load = partial(load_code, source.main.path, name=name, runner=self._runner, limit_s=self._limit_s)
        return await self._runner.run(load, limit_s=self._load_limit_s, name=name)

    def _problem(self, source: Source, error: Exception) -> Problem:
        match error:
            case FileProblem(in_graph=False) if source.inputs is not None:
                return broken(source.inputs, str(error))
            case ForeignError():
                return broken(source.main, fault_of(source.main.path, error))
            case TimeoutError():
                forget_code(source.main.path)
                return broken(source.main, f"was still being imported after {self._load_limit_s:g} s")
            case OSError():
                return broken(source.main, f"can't be read: {error.strerror or error}")
            case _:
                return broken(source.main, str(error))


def _forget(group: Group) -> None:
    for file in group.of(CODE):
        forget_code(file.path)
