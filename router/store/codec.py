"""Values as the stores write them: records as JSON, jobs as rows of columns in clear and sealed ones.

In clear are ids, tenants, states, order and times; sealed (``lib.storage.vault``) are the request, its answer and all
else that a caller sent. Names and idempotency keys are looked up by keyed digests.
"""

import hmac
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import orjson

from lib.storage.vault import Unreadable, Vault
from router.model import Assignment, Priority
from router.ports import Attempt, Damaged, JobState, News, NewsKind, RelayJob, RequestRecord, WorkerRecord

log = logging.getLogger(__name__)
Value = TypeVar("Value", WorkerRecord, RequestRecord, Assignment, Attempt)

IN_HEAD = (
    "request_id",
    "endpoint",
    "dialect",
    "path",
    "created_at",
    "cost",
    "size",
    "shape",
    "models",
    "input_bytes",
    "hooked",
    "headers",
    "idempotency_key",
    "attempts",
    "remote_id",
    "worker",
    "result_status",
    "reason",
    "number",
    "run",
    "forget_at",
    "notices",
)


def write(value: WorkerRecord | RequestRecord | Assignment | News) -> bytes:
    """A record as JSON."""
    return orjson.dumps(value, default=dict)


def read(kind: type[Value], data: bytes | Mapping[str, Any]) -> Value:
    """Make a record of JSON, without what a newer router added to it."""
    told = orjson.loads(data) if isinstance(data, bytes) else data
    values = {one.name: told[one.name] for one in fields(kind) if one.name in told}
    if "models" in values:
        values["models"] = tuple(values["models"])
    return kind(**values)


def read_news(data: bytes) -> News | None:
    """None: a newer router tells what this one does not know."""
    told = orjson.loads(data)
    if told["kind"] not in frozenset(NewsKind):
        return None
    return News(kind=NewsKind(told["kind"]), origin=told["origin"], body=told["body"])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job at rest. ``named`` and ``keyed`` are digests, ``head``, ``body`` and ``result`` are sealed."""

    job_id: str
    tenant: str
    priority: Priority
    state: JobState
    fence: int
    lease_until: float
    holder: str
    cancel_wanted: bool
    finished_at: float
    notice_at: float
    named: bytes
    keyed: bytes | None
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)
    result: bytes | None = field(repr=False)


class JobCodec:
    """Seals and opens jobs. To be used by one thread at a time, ``job`` and the digests excepted."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._names = vault.derive("names of jobs")

    def named(self, request_id: str, *, tenant: str) -> bytes:
        """The digest by which a tenant's job is found."""
        return self._digest("name", tenant, request_id)

    def row(self, job: RelayJob, *, with_body: bool = True) -> JobRow:
        """A job as it is written; ``with_body`` False: the body is there already."""
        keyed = self._digest("key", job.tenant, job.idempotency_key) if job.idempotency_key else None
        head = orjson.dumps({name: getattr(job, name) for name in IN_HEAD}, default=dict)
        seal = self._vault.seal
        return JobRow(
            job_id=job.job_id,
            tenant=job.tenant,
            priority=job.priority,
            state=job.state,
            fence=job.fence,
            lease_until=job.lease_until,
            holder=job.holder,
            cancel_wanted=job.cancel_wanted,
            finished_at=job.finished_at,
            notice_at=job.notice_at,
            named=self.named(job.request_id, tenant=job.tenant),
            keyed=keyed,
            head=seal(head, f"head:{job.job_id}"),
            body=seal(job.body, f"body:{job.job_id}") if with_body else b"",
            result=None if job.result is None else seal(job.result, f"result:{job.job_id}"),
        )

    def job(self, row: JobRow) -> RelayJob:
        """A row that was read without its body has none. Raises: Damaged."""
        unseal, job_id = self._vault.unseal, row.job_id
        try:
            head = orjson.loads(unseal(row.head, f"head:{job_id}"))
            body = unseal(row.body, f"body:{job_id}") if row.body else b""
            result = None if row.result is None else unseal(row.result, f"result:{job_id}")
        except Unreadable as error:
            raise Damaged(f"Job {job_id} can't be read any more: {error}.") from error
        values = {name: head[name] for name in IN_HEAD if name in head}
        values["models"] = tuple(values["models"])
        values["attempts"] = tuple(read(Attempt, one) for one in values["attempts"])
        return RelayJob(
            job_id=job_id,
            tenant=row.tenant,
            priority=row.priority,
            state=row.state,
            fence=row.fence,
            lease_until=row.lease_until,
            holder=row.holder,
            cancel_wanted=row.cancel_wanted,
            finished_at=row.finished_at,
            notice_at=row.notice_at,
            body=body,
            result=result,
            **values,
        )

    def jobs(self, rows: Iterable[JobRow]) -> list[RelayJob]:
        """All that can be read: one damaged row does not keep the others."""
        jobs = []
        for row in rows:
            try:
                jobs.append(self.job(row))
            except Damaged as error:
                log.error("job is damaged", extra={"event": "store.job_damaged", "job": row.job_id, "why": str(error)})
        return jobs

    def _digest(self, purpose: str, tenant: str, name: str) -> bytes:
        return hmac.digest(self._names, orjson.dumps((purpose, tenant, name)), "sha256")
