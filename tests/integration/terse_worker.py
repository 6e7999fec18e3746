"""A worker of few words that reports to a router as a stock one does, and answers as well or badly as it is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.integration.router_process import RouterProcess


class Trouble(StrEnum):
    """Answers that are none."""

    GARBAGE = "200 and JSON by its header, but not by its body"
    CUT = "half of the body"
    CLOSED = "no answer at all"
    NO_HTTP = "no HTTP"


Say = int | Trouble
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RAW = {
    Trouble.GARBAGE: HEAD % 9 + b'{"half": ',
    Trouble.CUT: HEAD % 1000 + b'{"half": ',
    Trouble.CLOSED: b"",
    Trouble.NO_HTTP: b"\x00\x01 hello\r\n\r\n",
}


@dataclass
class TerseWorker:
    """Answers each call with the next of ``says`` (the last one for ever), one after the other, at its speed."""

    router: RouterProcess
    endpoint: str
    number: int
    says: list[Say]
    perf: float = 1e6
    url: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[int, float] = field(default_factory=dict)
    """What it has to do, by request_idx: the cost."""
    ended: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)
    telling: threading.Lock = field(default_factory=threading.Lock)
    """Reports go out one after the other, so that the last one is the truth."""

    @property
    def done(self) -> float:
        """Units of all that it answered well."""
        return sum(call["auth_data"]["cost"] for call in self.calls if call.get("answered") == 200)

    def report(self) -> None:
        with self.telling:
            self.router.tell(
                self.endpoint,
                "/worker_status/",
                id=self.number,
                version="1.1.0",
                loadtime=1.0,
                max_perf=self.perf,
                cur_load=sum(self.waiting.values()),
                num_requests_working=len(self.waiting),
                working_request_idxs=list(self.waiting),
                url=self.url,
            )

    def answer(self, body: dict[str, Any]) -> Say:
        """Do one request, and tell the router of it."""
        number, cost = body["auth_data"]["request_idx"], body["auth_data"]["cost"]
        self.calls.append(body)
        self.waiting[number] = cost
        self.report()
        with self.turn:
            self.ended.wait(cost / self.perf)
            said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        body["answered"] = said
        del self.waiting[number]
        outcome = "Rejected" if said == 429 else "Error" if isinstance(said, int) and said >= 500 else "Success"
        item = {"request_idx": number, "success": outcome == "Success", "status": outcome}
        self.router.tell(self.endpoint, "/delete_requests/", worker_id=self.number, requests=[item])
        self.report()
        return said


@contextmanager
def terse_worker(
    router: RouterProcess, endpoint: str, number: int, *says: Say, perf: float = 1e6
) -> Iterator[TerseWorker]:
    """A worker that has reported."""
    worker = TerseWorker(router=router, endpoint=endpoint, number=number, says=list(says), perf=perf)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = worker.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if isinstance(said, Trouble):
                self.wfile.write(RAW[said])
                self.close_connection = True
                return
            data = json.dumps({"said": said, "worker": worker.number}).encode()
            self.send_response(said)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *said: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        worker.url = f"http://127.0.0.1:{server.server_address[1]}"
        worker.report()
        yield worker
    finally:
        worker.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
