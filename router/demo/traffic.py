"""The demo's callers: jobs of mixed size, at random moments, in waves, in each way that there is to have one done.

Directly, by the protocol that Vast's SDK speaks: ask ``/route/`` for a worker, post to that worker, and tell the router
of one that did not do it by asking again with the same ``request_idx``. Through the relay: post to the router and wait
for the answer, or be content with a 202 and fetch the result later.
"""

import asyncio
import math
import random
from dataclasses import dataclass
from typing import Any

import aiohttp

from router.demo.fleet import Fleet
from router.demo.settings import BENCHMARK_STEPS, ENDPOINT, MODELS

TRIES = 5
WAVE_S = 60.0
WAVE = 0.35
"""The load rises and falls by this share."""
JOB_S = 120.0
POLL_S = 30
MOST_OPEN = 200
"""Callers who wait at the same time; more would only show that the fleet is too small."""
_SHARES = (60, 30, 10)
_WAYS = (60, 25, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A picture to make: pixels of a side, and steps."""

    side: int
    steps: int

    @property
    def cost(self) -> float:
        """In units: a hundred is the benchmark."""
        return 100.0 * self.steps / BENCHMARK_STEPS * (self.side / 512) ** 2


_DONE = "completed"
_OVER = (_DONE, "failed", "cancelled", "timeout")
"""Of the wrapper's API."""
JOBS = (Job(side=512, steps=10), Job(side=512, steps=20), Job(side=768, steps=30))
MEAN_COST = sum(job.cost * share for job, share in zip(JOBS, _SHARES, strict=True)) / sum(_SHARES)


def graph(job: Job, *, model: str, seed: int) -> dict[str, Any]:
    """The workflow of a job."""
    sampler = {"seed": seed, "steps": job.steps, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": sampler | links},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": job.side, "height": job.side, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse at dawn", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "demo"}},
    }


class Traffic:
    """``run`` never returns; ``done`` and ``failed`` count jobs, ``seconds`` is what all of those done took."""

    def __init__(self, http: aiohttp.ClientSession, fleet: Fleet, *, units_per_s: float, chance: random.Random) -> None:
        self._http = http
        self._fleet = fleet
        self._gap_s = MEAN_COST / units_per_s
        self._chance = chance
        self._open = 0
        self.done = 0
        self.failed = 0
        self.seconds = 0.0

    async def run(self) -> None:
        """Start jobs for ever."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            while True:
                wave = 1 + WAVE * math.sin(2 * math.pi * (loop.time() - began) / WAVE_S)
                await asyncio.sleep(self._chance.expovariate(wave / self._gap_s))
                if self._open < MOST_OPEN:
                    (job,) = self._chance.choices(JOBS, weights=_SHARES)
                    group.create_task(self._make(job))

    async def _make(self, job: Job) -> None:
        began = asyncio.get_running_loop().time()
        self._open += 1
        try:
            async with asyncio.timeout(JOB_S):
                (way,) = self._chance.choices((self._direct, self._relayed, self._kept), weights=_WAYS)
                done = await way(job)
        except (aiohttp.ClientError, TimeoutError):
            done = False
        finally:
            self._open -= 1
        self.done += done
        self.failed += not done
        self.seconds += (asyncio.get_running_loop().time() - began) if done else 0.0

    def _payload(self, job: Job) -> dict[str, Any]:
        (model,) = self._chance.choices(MODELS, weights=(3, 1))
        return {"input": {"workflow_json": graph(job, model=model, seed=self._chance.getrandbits(48))}}

    def _key(self) -> str:
        return self._chance.choice(self._fleet.keys.tenants)

    async def _relayed(self, job: Job) -> bool:
        """By one request to the router."""
        headers = {"Authorization": f"Bearer {self._key()}"}
        url = f"{self._fleet.url}/generate/sync"
        async with self._http.post(url, json=self._payload(job), headers=headers) as answer:
            await answer.read()
            return answer.ok

    async def _kept(self, job: Job) -> bool:
        """As a job that the router keeps until it is done."""
        headers = {"Authorization": f"Bearer {self._key()}"}
        url = f"{self._fleet.url}/generate"
        async with self._http.post(url, json=self._payload(job), headers=headers) as answer:
            answer.raise_for_status()
            name = (await answer.json())["id"]
        url = f"{self._fleet.url}/result/{name}?wait={POLL_S}"
        while True:
            async with self._http.get(url, headers=headers) as answer:
                answer.raise_for_status()
                status = (await answer.json())["status"]
            if status in _OVER:
                return bool(status == _DONE)

    async def _direct(self, job: Job) -> bool:
        """By a worker that the router names."""
        key, number, payload = self._key(), 0, self._payload(job)
        for _ in range(TRIES):
            routed = await self._route(job, key=key, number=number)
            number = routed["request_idx"]
            if await self._posted(routed, payload):
                return True
        return False

    async def _route(self, job: Job, *, key: str, number: int) -> dict[str, Any]:
        """Ask until there is a worker; the router holds each question until it has one, for some seconds."""
        headers = {"Authorization": f"Bearer {key}"}
        while True:
            body = {"endpoint": ENDPOINT, "api_key": key, "cost": job.cost, "request_idx": number}
            async with self._http.post(f"{self._fleet.url}/route/", json=body, headers=headers) as answer:
                answer.raise_for_status()
                routed: dict[str, Any] = await answer.json()
            if "url" in routed:
                return routed
            number = routed["request_idx"]

    async def _posted(self, routed: dict[str, Any], payload: dict[str, Any]) -> bool:
        body = {"auth_data": routed, "session_id": None, "payload": payload}
        try:
            async with self._http.post(f"{routed['url']}/generate/sync", json=body) as answer:
                await answer.read()
                return answer.ok
        except aiohttp.ClientConnectionError:
            return False
