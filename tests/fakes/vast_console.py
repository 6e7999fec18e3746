"""The part of Vast's console that rents and returns instances, over loopback: offers, asks, instances. It records what
it is asked, and answers as the real one does (shapes as ``vastai`` 1.9.1 reads them)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "vast-account-key-0123456789"


@dataclass
class VastConsole:
    """``offers`` can be rented, ``taken`` are gone when somebody asks; ``calls`` are method, path and body."""

    offers: list[dict[str, Any]] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    instances: dict[int, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    url: str = ""
    number: int = 7000

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """What the console says."""
        self.calls.append((method, path, body))
        match method, path.strip("/").split("/")[2:]:
            case "POST", ["bundles"]:
                return 200, {"offers": self.offers[: body.get("limit", 100)]}
            case "PUT", ["asks", offer]:
                return self._rent(int(offer), body)
            case "GET", ["instances"]:
                rows = sorted(self.instances.values(), key=lambda row: int(row["id"]))
                return 200, {"instances": rows, "next_token": None, "total_instances": len(rows)}
            case "PUT", ["instances", "reboot", number] if int(number) in self.instances:
                return 200, {"success": True}
            case "PUT", ["instances", number] if int(number) in self.instances:
                stopped = body["state"] == "stopped"
                self.instances[int(number)] |= {
                    "intended_status": body["state"],
                    "actual_status": "exited" if stopped else "running",
                }
                return 200, {"success": True}
            case "DELETE", ["instances", number] if int(number) in self.instances:
                del self.instances[int(number)]
                return 200, {"success": True}
        return 404, {"success": False, "error": "no_such_instance", "msg": "No such instance."}

    def add(self, label: str, **changes: Any) -> int:
        """An instance that is there already."""
        self.number += 1
        usual = {
            "id": self.number,
            "label": label,
            "start_date": 1_800_000_000.0,
            "extra_env": [],
            "actual_status": "running",
            "intended_status": "running",
            "dph_total": 0.4,
            "status_msg": "success, running",
        }
        self.instances[self.number] = usual | changes
        return self.number

    def _rent(self, offer: int, body: Any) -> tuple[int, Any]:
        if offer in self.taken:
            return 404, {"success": False, "error": "no_such_ask", "msg": f"Instance type {offer} not available."}
        price = next(one["dph_total"] for one in self.offers if one["id"] == offer)
        number = self.add(body["label"], dph_total=price, actual_status="loading")
        return 200, {"success": True, "new_contract": number}


@contextmanager
def vast_console() -> Iterator[VastConsole]:
    """A console that listens."""
    console = VastConsole()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.headers.get("Authorization") == f"Bearer {KEY}"
            refused = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
            path = self.path.partition("?")[0]
            status, answer = console.answer(self.command, path, json.loads(data or b"{}")) if known else (401, refused)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _do

        def log_message(self, *said: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        console.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield console
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
