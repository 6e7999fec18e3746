"""Jobs and messages as rows: what is in clear, what is sealed, and back."""

import hashlib
import logging
import sqlite3
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from lib.jobs.codec import (
    CodecError,
    decode_job,
    decode_message,
    encode_job,
    encode_message,
    encode_request,
    pack,
    unpack,
)
from lib.jobs.model import Idempotency, Job, OutboxItem
from lib.jobs.requests import is_repeatable, request_size
from lib.jobs.retention import StoreTime, run_is_remembered
from lib.storage.vault import Unreadable, Vault

log = logging.getLogger(__name__)

BULKY_BYTES = 32 * 1024
"""A larger request (workflow and files) has a row of its own, so that news of its job don't write it again."""
COMPRESSED_BYTES = 16 * 1024
"""A larger response is compressed; below, it costs more time than room."""
COMPRESSED = b"z"

INSERT = """INSERT INTO jobs (sequence, job_id, named, keyed, request_id, owner, dialect, status, run,
    run_is_remembered, finished_at, forget_at, size_bytes, head, workflow, response)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE = """UPDATE jobs SET status = ?, head = ?, response = ?
    WHERE sequence = ? AND job_id = ? AND finished_at IS NULL"""
FINISH = """UPDATE jobs SET status = ?, run_is_remembered = ?, finished_at = ?, size_bytes = ?, head = ?,
    workflow = NULL, response = ? WHERE sequence = ? AND job_id = ? AND finished_at IS NULL"""
FINISH_WHOLE = """UPDATE jobs SET status = ?, run_is_remembered = ?, finished_at = ?, size_bytes = ? + coalesce(
        length(workflow), (SELECT length(w.workflow) FROM workflows w WHERE w.sequence = jobs.sequence), 0),
    head = ?, response = ? WHERE sequence = ? AND job_id = ? AND finished_at IS NULL"""
"""The request stays."""
ADD_REQUEST = "INSERT OR REPLACE INTO workflows VALUES (?, ?)"
SHORTEN = "UPDATE jobs SET head = ?, forget_at = ? WHERE job_id = ?"
WHOLE = """SELECT j.job_id, j.head, coalesce(j.workflow, w.workflow), j.response
    FROM jobs j LEFT JOIN workflows w ON w.sequence = j.sequence"""
VISIBLE = """(j.finished_at IS NULL OR j.finished_at > CASE WHEN j.keyed IS NULL THEN ? ELSE ? END)
    AND j.sequence NOT IN (SELECT sequence FROM jobs WHERE forget_at <= ?)"""
"""What is past its time is not shown, although ``expire`` has not come by yet. ``forget_at`` is read from its index: in
the rows it lies behind the blobs."""
SLIM = "SELECT j.job_id, j.head, NULL, NULL FROM jobs j"
ADD_MESSAGE = """INSERT OR IGNORE INTO outbox (message_id, job_id, owner, host, created_at, due_at, attempts, dead,
    size_bytes, head, body) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)"""
MESSAGE = "SELECT message_id, job_id, owner, due_at, attempts, dead, head, error, body FROM outbox"


def text(value: str) -> str:
    """A string as SQLite takes it: lone surrogates are spelled out."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


class Rows:
    """Turns values into rows and back; knows the key, not the connection."""

    def __init__(self, vault: Vault, time: StoreTime) -> None:
        self._vault = vault
        self._time = time
        self._digest_key = vault.derive("names")

    # -- digests -------------------------------------------------------------------------------------------------------

    def named(self, request_id: str, owner: str) -> bytes:
        return self._digest("name", owner, request_id)

    def keyed(self, key: Idempotency) -> bytes:
        return self._digest("key", key.scope, key.key)

    def host(self, host: str) -> bytes:
        return self._digest("host", host, "")

    def _digest(self, kind: str, first: str, second: str) -> bytes:
        whole = f"{kind}:{len(first)}:{first}{second}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(whole, digest_size=16, key=self._digest_key).digest()

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def insert(self, db: sqlite3.Connection, job: Job) -> None:
        """Write a job that is accepted; one statement, unless ``is_bulky``."""
        head = self._seal(encode_job(job), job.job_id, "head")
        request = self._request(job)
        bulky = is_bulky(job)
        db.execute(INSERT, self._row(job, head=head, request=None if bulky else request))
        if bulky:
            db.execute(ADD_REQUEST, (job.sequence, request))

    def update(self, db: sqlite3.Connection, job: Job) -> None:
        head = self._seal(encode_job(job), job.job_id, "head")
        db.execute(UPDATE, (job.status.value, head, self._response(job), job.sequence, job.job_id))

    def finish(self, db: sqlite3.Connection, job: Job, *, at: int, bulky: bool) -> None:
        """Write a terminal state; ``at`` is store time, greater for each job. A job that is not there is added. The
        request of one that may be repeated stays as it was added."""
        head = self._seal(encode_job(job), job.job_id, "head")
        response = self._response(job)
        whole = is_repeatable(job)
        size = len(head) + len(response or b"")
        values = (job.status.value, run_is_remembered(job), at, size, head, response, job.sequence, job.job_id)
        if db.execute(FINISH_WHOLE if whole else FINISH, values).rowcount == 0:
            request = self._request(job) if whole else None
            size += len(request or b"")
            row = self._row(job, head=head, finished_at=at, size_bytes=size, response=response, request=request)
            db.execute(INSERT.replace("INSERT", "INSERT OR IGNORE"), row)
        if bulky and not whole:
            db.execute("DELETE FROM workflows WHERE sequence = ?", (job.sequence,))

    def shorten(self, db: sqlite3.Connection, job_id: str, *, at: int, horizon: tuple[int, int, int]) -> Job | None:
        """Have a job that is visible be forgotten at ``at`` (store time), unless it is sooner anyway; return it."""
        found = db.execute(f"{WHOLE} WHERE j.job_id = ? AND {VISIBLE}", (job_id, *horizon))
        job = next(iter(self.jobs(found)), None)
        if job is None:
            return None
        (known,) = db.execute("SELECT forget_at FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if known is not None and known <= at:
            return job
        job = job.with_(expires_at=self._time.wall(at))
        db.execute(SHORTEN, (self._seal(encode_job(job), job_id, "head"), at, job_id))
        return job

    def jobs(self, found: Iterable[tuple[Any, ...]]) -> list[Job]:
        """The jobs of rows of ``WHOLE`` or ``SLIM``; what can't be read is left out, and logged."""
        read = ((row[0], self._job(row)) for row in found)
        return [job for _, job in read if job is not None]

    def _job(self, row: tuple[Any, ...]) -> Job | None:
        job_id, head, request, response = row
        try:
            return decode_job(
                self._unseal(head, job_id, "head"),
                request=self._unseal(request, job_id, "workflow") if request else b"",
                response=_unpacked(self._unseal(response, job_id, "response")) if response else None,
            )
        except (Unreadable, CodecError, zlib.error) as error:
            log.warning(
                "a stored job can't be read", extra={"event": "store.unreadable", "job_id": job_id}, exc_info=error
            )
            return None

    def _row(
        self,
        job: Job,
        *,
        head: bytes,
        request: bytes | None = None,
        finished_at: int | None = None,
        size_bytes: int = 0,
        response: bytes | None = None,
    ) -> tuple[Any, ...]:
        spec = job.spec
        return (
            job.sequence,
            job.job_id,
            self.named(spec.request_id, spec.owner),
            None if spec.idempotency is None else self.keyed(spec.idempotency),
            text(spec.request_id),
            text(spec.owner),
            spec.dialect,
            job.status.value,
            job.run,
            run_is_remembered(job),
            finished_at,
            None if job.expires_at is None else self._time.of(job.expires_at),
            size_bytes,
            head,
            request,
            response,
        )

    def _request(self, job: Job) -> bytes:
        return self._seal(encode_request(job.spec), job.job_id, "workflow")

    def _response(self, job: Job) -> bytes | None:
        if not job.response:
            return None
        try:
            packed = pack(job.response)
        except CodecError as error:
            log.warning("ComfyUI's response can't be kept", extra={"event": "store.response"}, exc_info=error)
            return None
        if len(packed) > COMPRESSED_BYTES:
            packed = COMPRESSED + zlib.compress(packed, 1)
        return self._seal(packed, job.job_id, "response")

    # -- messages ------------------------------------------------------------------------------------------------------

    def add_messages(self, db: sqlite3.Connection, items: Iterable[OutboxItem]) -> None:
        for item in items:
            head = self._seal(encode_message(item), item.message_id, "message")
            body = self._seal(item.body, item.message_id, "body")
            created, due = self._time.of(item.created_at), self._time.of(item.next_at)
            key = (item.message_id, item.job_id, text(item.owner), self.host(item.host))
            db.execute(ADD_MESSAGE, (*key, created, due, item.attempts, len(head) + len(body), head, body))

    def error(self, message_id: str, error: str) -> bytes:
        return self._seal(error.encode("utf-8", "replace"), message_id, "error")

    def messages(self, found: Iterable[tuple[Any, ...]]) -> list[OutboxItem]:
        """The messages of rows of ``MESSAGE``; what can't be read is left out, and logged."""
        return [item for row in found if (item := self._message(row)) is not None]

    def _message(self, row: tuple[Any, ...]) -> OutboxItem | None:
        message_id, job_id, owner, due_at, attempts, dead, head, error, body = row
        try:
            return decode_message(
                self._unseal(head, message_id, "message"),
                message_id=message_id,
                job_id=job_id,
                owner=owner,
                body=self._unseal(body, message_id, "body"),
                next_at=self._time.wall(due_at),
                attempts=attempts,
                last_error=self._unseal(error, message_id, "error").decode() if error else None,
                dead=bool(dead),
            )
        except (Unreadable, CodecError) as problem:
            log.warning(
                "a stored webhook message can't be read",
                extra={"event": "store.unreadable", "message_id": message_id},
                exc_info=problem,
            )
            return None

    def _seal(self, data: bytes, row: str, column: str) -> bytes:
        return self._vault.seal(data, f"{column}:{row}")

    def _unseal(self, sealed: bytes, row: str, column: str) -> bytes:
        return self._vault.unseal(sealed, f"{column}:{row}")


class Seen:
    """Which digests were ever recorded, perhaps some more (a Bloom filter of 1 MiB, good for a million): most request
    ids are new, and need no query to say so."""

    BITS = 1 << 23

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._bits = bytearray(self.BITS // 8)
        for digest in digests:
            self.add(digest)

    def add(self, digest: bytes) -> None:
        for at in struct.unpack_from("<III", digest):
            at %= self.BITS
            self._bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, digest: bytes) -> bool:
        places = (at % self.BITS for at in struct.unpack_from("<III", digest))
        return all(self._bits[at >> 3] & (1 << (at & 7)) for at in places)


def is_bulky(job: Job) -> bool:
    return request_size(job.spec) > BULKY_BYTES


def _unpacked(packed: bytes) -> Any:
    return unpack(zlib.decompress(packed[1:]) if packed[:1] == COMPRESSED else packed)
