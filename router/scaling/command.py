"""Workers that a program starts and stops: the operator's own, or ``vast.py`` beside this file.

The program is run once for each action, with one JSON object on standard input::

    {"action": "start", "count": 2, "endpoint": "images", "group": "rtx4090",
     "environment": {"REPORT_ADDR": "...", "MASTER_TOKEN": "..."}, "options": {...}}

``action`` is ``start`` (``count``, ``environment``), ``list``, or, with the number ``id``, ``resume``, ``restart``,
``stop`` or ``remove``. It ends with status 0 and, for ``start`` and ``list``, prints
``{"instances": [{"id": 17, "state": "running", "price": 0.4, "detail": "..."}]}``; ``id`` is the worker's
``CONTAINER_ID``, ``state`` one of ``running``, ``stopped``, ``leaving``, ``failed``. Any other status is a failure, and
the last lines of its standard error say why.
"""

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from router.scaling.ports import Instance, InstanceState, Launch, ProviderFailed

MOST_OUTPUT = 4 * 1024 * 1024
TOLD = 400
"""Characters of its last words that are told."""


class _Instance(BaseModel):
    id: int = Field(ge=0, lt=2**63)
    state: InstanceState = InstanceState.RUNNING
    started_at: float = 0.0
    price: float | None = Field(None, ge=0)
    detail: str = ""


class _Answer(BaseModel):
    instances: tuple[_Instance, ...] = ()


class CommandLine:
    """Implements ``Provider``. ``environment`` is the program's own, not the workers'."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        endpoint: str,
        group: str,
        environment: Mapping[str, str],
        options: Mapping[str, Any],
        timeout_s: float,
        fresh_s: float,
        keeps_stopped: bool,
        secrets: Sequence[str] = (),
    ) -> None:
        self.keeps_stopped = keeps_stopped
        self.fresh_s = fresh_s
        self._command = tuple(command)
        self._about = {"endpoint": endpoint, "group": group, "options": dict(options)}
        self._environment = dict(environment)
        self._timeout_s = timeout_s
        self._secrets = [one for one in secrets if one]

    async def start(self, count: int, launch: Launch) -> Sequence[Instance]:
        return await self._instances("start", count=count, environment=dict(launch.environment))

    async def resume(self, instance: int, launch: Launch) -> None:
        await self._run("resume", id=instance, environment=dict(launch.environment))

    async def restart(self, instance: int, launch: Launch) -> None:
        await self._run("restart", id=instance, environment=dict(launch.environment))

    async def stop(self, instance: int) -> None:
        await self._run("stop", id=instance)

    async def remove(self, instance: int) -> None:
        await self._run("remove", id=instance)

    async def list(self) -> Sequence[Instance]:
        return await self._instances("list")

    async def close(self) -> None:
        """Machines stay as they are."""

    async def _instances(self, action: str, **fields: Any) -> Sequence[Instance]:
        output = await self._run(action, **fields)
        try:
            answer = _Answer.model_validate(json.loads(output))
        except (ValidationError, ValueError) as error:
            raise ProviderFailed(f"{self._name} did not answer {action!r} with a list of instances.") from error
        return [Instance(**one.model_dump()) for one in answer.instances]

    async def _run(self, action: str, **fields: Any) -> bytes:
        asked = json.dumps({"action": action, **self._about, **fields}).encode()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ProviderFailed(f"{self._name} can't be run: {error}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                output, said = await process.communicate(asked)
        except TimeoutError as error:
            raise ProviderFailed(f"{self._name} {action}: no answer within {self._timeout_s:g} s.") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise ProviderFailed(f"{self._name} {action} ended with {process.returncode}: {self._words(said)}")
        return output[:MOST_OUTPUT]

    @property
    def _name(self) -> str:
        return self._command[-1]

    def _words(self, said: bytes) -> str:
        """The end of what it said, without what nobody shall read."""
        text = said.decode(errors="replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text[-TOLD:].split()) or "it said nothing"
