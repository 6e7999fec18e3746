"""A boot benchmark that fails is an error until it succeeds; nobody has to restart the worker for that."""

import json
from pathlib import Path

from tests.integration.doors import fake_engines, fleet_settings, reports
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess, autoscaler, picture


def told(router: str, cause: str) -> bool:
    return any(cause in report["error_msg"] for report in reports(router))


def test_a_failed_benchmark_is_tried_again_and_cleared(tmp_path: Path) -> None:
    """Serverless: not ready and told to the autoscaler with the cause; ready, and told so, once it works."""
    measured = tmp_path / "measured.json"
    graph = picture(prefix="measured/__RANDOM_INT__")
    with autoscaler() as router, fake_engines(tmp_path / "engine") as (engine,):
        env = fleet_settings(tmp_path, router) | {
            "COMFYUI_API_BASE": engine.base_url,
            "BENCHMARK_JSON_PATH": str(measured),
            "BENCHMARK_RETRY_S": "0.5",
        }
        measured.write_text(json.dumps(graph | {"9": {"class_type": "NotInstalled", "inputs": {"images": ["1", 0]}}}))
        worker = WorkerProcess(tmp_path, env)
        worker.start()
        try:
            worker.wait_for(lambda: told(router, "NotInstalled"), "told to be wrong", START_TIMEOUT_S)
            assert "NotInstalled" in worker.get("/ready").json()["reason"]
            assert worker.get("/ready").status_code == 503
            measured.write_text(json.dumps(graph))
            worker.wait_ready()
            worker.wait_for(lambda: reports(router)[-1]["loadtime"] > 0, "told to be loaded")
            assert reports(router)[-1]["error_msg"] == ""
            assert reports(router)[-1]["max_perf"] > 0
        finally:
            worker.stop()
