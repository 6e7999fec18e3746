"""Kill test of relayed jobs: routers, workers and the store crash at random (seeded), and no job is lost.

200 asynchronous jobs on 2 routers and 4 workers (processes that speak the relay's contract and forget everything when
they die), over redis-server with ``appendfsync always``. Clients send each job with an Idempotency-Key, again to either
router until one takes it, and ask either one for the result.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes.job_worker import workflow
from tests.integration.kill_fleet import KEY, Fleet, fleet
from tests.router.store.redis_server import REDIS_SERVER

JOBS = 200
CLIENTS = 16
MOST_KILLS = 24
MOST_DEAD = 3
"""A job that three workers were lost with is a dead letter, as it should be; so unlucky are few."""
PACE = 4
"""So many jobs end from one kill to the next at least: on a slow machine, too, few meet three of them."""
PATIENCE_S = 400.0
HEADERS = {"Authorization": f"Bearer {KEY}"}
ENDS = ("completed", "failed", "cancelled")


@dataclass
class Ended:
    """What a client learned of its job: all ends that it was told, in their order."""

    text: str
    job_id: str
    ends: list[tuple[str, Any]]


class Client:
    """Speaks to whichever router answers."""

    def __init__(self, urls: list[str], *, seed: int, until: float) -> None:
        self._urls = urls
        self._chance = random.Random(seed)
        self._until = until
        self._http = requests.Session()

    def do(self, number: int) -> Ended:
        text = f"job-{number}"
        body = {"input": {"request_id": text, "workflow_json": workflow(text, seconds=0.25)}}
        job_id = self._submitted(text, body)
        ends = []
        for _ in range(2):  # the end is told by everybody, and stays what it is
            ends.append(self.end(job_id))
        return Ended(text, job_id, ends)

    def _submitted(self, text: str, body: Any) -> str:
        for answer in self._tries("POST", "/generate", json=body, headers={**HEADERS, "Idempotency-Key": text}):
            told = answer.json()
            if answer.status_code == 202:
                return str(told["job_id"])
            if answer.status_code == 409:
                return str(told["details"]["job_id"])
            assert answer.status_code >= 500, (answer.status_code, told)
        raise AssertionError("unreachable")

    def end(self, job_id: str) -> tuple[str, Any]:
        for answer in self._tries("GET", f"/result/{job_id}?wait=5", headers=HEADERS):
            told = answer.json()
            assert answer.status_code != 404, told
            if told.get("status") in ENDS:
                return str(told["status"]), told
        raise AssertionError("unreachable")

    def _tries(self, method: str, path: str, **options: Any) -> Iterator[requests.Response]:
        while time.monotonic() < self._until:
            url = self._chance.choice(self._urls)
            with suppress(requests.RequestException):
                yield self._http.request(method, url + path, timeout=15, **options)
            time.sleep(0.1)
        raise AssertionError(f"{method} {path}: no answer in time")


class Progress:
    """Counts jobs that ended, and says when all are ``over``."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._ended = threading.Semaphore(0)

    def ended(self) -> None:
        """One more."""
        self._ended.release()

    def over(self) -> None:
        """Nothing is waited for any more."""
        self._over.set()
        self._ended.release(PACE)

    def goes_on(self, pause_s: float) -> bool:
        """Wait so long, and for some more jobs. False: it is over."""
        if self._over.wait(pause_s):
            return False
        for _ in range(PACE):
            self._ended.acquire()
        return not self._over.is_set()


def trouble(made: Fleet, progress: Progress, *, seed: int) -> Counter[str]:
    """Kill something at random, and start it again after a while, until the jobs are over."""
    chance, killed = random.Random(seed), Counter[str]()
    kinds = ["redis", "router", "worker"]  # each once at first
    while killed.total() < MOST_KILLS and progress.goes_on(chance.uniform(0.4, 1.2)):
        kind = kinds.pop() if kinds else chance.choices(("worker", "router", "redis"), (6, 3, 2))[0]
        killed[kind] += 1
        away_s = chance.uniform(0.2, 1.5)
        if kind == "redis":
            made.redis.kill()
            time.sleep(away_s)
            made.redis.start()
            continue
        part = chance.choice(made.workers if kind == "worker" else made.routers)
        part.kill()
        time.sleep(away_s)
        part.start()
    return killed


def played(made: Fleet, *, seed: int) -> tuple[list[Ended], Counter[str]]:
    """All jobs, while things are killed."""
    until, progress = time.monotonic() + PATIENCE_S, Progress()
    clients = [Client(made.urls, seed=seed + place, until=until) for place in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killing = pool.submit(trouble, made, progress, seed=seed)
        lanes = [
            pool.submit(_lane, client, range(place, JOBS, CLIENTS), progress) for place, client in enumerate(clients)
        ]
        try:
            ended = [one for lane in lanes for one in lane.result()]
        finally:
            progress.over()
        return ended, killing.result()


def _lane(client: Client, numbers: range, progress: Progress) -> list[Ended]:
    ended = []
    for number in numbers:
        ended.append(client.do(number))
        progress.ended()
    return ended


def _told_alike_by_all(made: Fleet, ended: list[Ended]) -> None:
    """After all that, and one more kill of the store, each router tells of the same ends."""
    made.redis.kill()
    made.redis.start()
    for url in made.urls:
        client = Client([url], seed=0, until=time.monotonic() + PATIENCE_S)
        for one in ended:
            one.ends.append(client.end(one.job_id))


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed (Debian: apt-get install redis-server)")
@pytest.mark.timeout(1000)
def test_no_job_is_lost(tmp_path: Path) -> None:
    """Each ends exactly once from its client's view, with its own result, whoever dies."""
    with fleet(tmp_path) as made:
        ended, killed = played(made, seed=2)
        executed = Counter(made.executed)
        _told_alike_by_all(made, ended)
    assert set(killed) == {"worker", "router", "redis"}, killed
    assert len({one.job_id for one in ended}) == JOBS
    dead = 0
    for one in ended:
        first, told = one.ends[0]
        assert len(one.ends) == 4 and all(end == (first, told) for end in one.ends), one.text
        if first == "failed":
            assert len(told["details"]["attempts"]) == 3, told
            dead += 1
            continue
        assert (first, told["id"], told["output"]) == ("completed", one.text, [{"text": one.text}])
        assert executed[one.text] >= 1
    assert dead <= MOST_DEAD
