"""Runs in the peer's environment: the stock PyWorker of the ``vastai`` package, before a model of a few lines.

``python stock_worker.py`` in a folder of its own; ``REPORT_ADDR``, ``CONTAINER_ID``, ``MASTER_TOKEN``, ``WORKER_PORT``
and so on say the rest. The model answers ``/generate/sync`` with what it got.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

LOG = Path("model.log")


class Model(BaseHTTPRequestHandler):
    """Healthy, quick, and agreeable."""

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
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
    config = WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=model.server_address[1],
        model_log_file=str(LOG),
        model_healthcheck_url="/health",
        handlers=[handler],
        log_action_config=LogActionConfig(on_load=["READY"]),
    )
    Worker(config).run(host="127.0.0.1")


if __name__ == "__main__":
    main()
