"""Runs in the peer's environment: the stock PyWorker of the ``vastai`` package, before a model of a few lines.

``python stock_worker.py`` in a folder of its own; ``REPORT_ADDR``, ``CONTAINER_ID``, ``MASTER_TOKEN``, ``WORKER_PORT``
and so on say the rest. The model answers ``/generate/sync`` with what it got, and ``/generate/stream`` with events;
the payload says how: ``seconds`` to take, how many ``events``, which ``status``, ``garbage`` that is no JSON. A line
``BROKEN`` in its log is an error that ends it, as Vast's worker sees it.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

LOG = Path("model.log")


class Model(BaseHTTPRequestHandler):
    """Healthy, quick, and agreeable, unless it is told otherwise."""

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(data)
        if self.path == "/generate/stream":
            return self._stream(asked["events"], asked.get("seconds", 0.0))
        time.sleep(asked.get("seconds", 0.0))
        return self._answer(b'{"half": ' if asked.get("garbage") else data, asked.get("status", 200))

    def _stream(self, count: int, seconds: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(count):
            time.sleep(seconds / count)
            self.wfile.write(b'data: {"number": %d}\n\n' % number)
            self.wfile.flush()

    def _answer(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *said: object) -> None:
        """Not on the terminal."""


def main() -> None:
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    LOG.write_text("READY\n")
    handler = HandlerConfig(
        route="/generate/sync",
        allow_parallel_requests=False,
        max_queue_time=10.0,
        benchmark_config=BenchmarkConfig(dataset=[{"input": {}}], runs=1, concurrency=1),
        workload_calculator=lambda payload: 100.0,
    )
    streaming = HandlerConfig(
        route="/generate/stream",
        allow_parallel_requests=False,
        max_queue_time=10.0,
        workload_calculator=lambda payload: 100.0,
    )
    config = WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=model.server_address[1],
        model_log_file=str(LOG),
        model_healthcheck_url="/health",
        handlers=[handler, streaming],
        log_action_config=LogActionConfig(on_load=["READY"], on_error=["BROKEN"]),
        max_sessions=2,
    )
    Worker(config).run(host="127.0.0.1")


if __name__ == "__main__":
    main()
