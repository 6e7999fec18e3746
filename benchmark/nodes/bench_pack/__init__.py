"""Loaded by the ComfyUI that is measured: a stopwatch around each execution, and a node that ticks.

Both sides of a comparison run on the same process, so the pack slows neither more than the other. Imports nothing of
ComfyUI before it is there.
"""

import os
import sys
import time
from pathlib import Path

STOPWATCH = os.environ.get("BENCHMARK_STOPWATCH", "")
"""File that gets a line ``prompt id, begin, end`` (monotonic seconds) for each executed prompt."""
DAY_MS = 86_400_000


def _watch_executions():
    import execution

    inner = execution.PromptExecutor.execute

    def execute(self, prompt, prompt_id, *args, **kwargs):
        begin = time.perf_counter()
        try:
            return inner(self, prompt, prompt_id, *args, **kwargs)
        finally:
            with Path(STOPWATCH).open("a", encoding="ascii") as file:
                file.write(f"{prompt_id} {begin:.6f} {time.perf_counter():.6f}\n")

    execution.PromptExecutor.execute = execute


class BenchTicks:
    """Passes a picture on after a while; each tick carries the time of day in ms as its progress value."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0}),
                "per_second": ("FLOAT", {"default": 10.0, "min": 0.1, "max": 1000.0}),
            }
        }

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "benchmark"

    def run(self, image, seconds, per_second):
        bar = sys.modules["comfy.utils"].ProgressBar(DAY_MS)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(1 / per_second)
            bar.update_absolute(int(time.time() * 1000) % DAY_MS, DAY_MS)
        return (image,)


if STOPWATCH:
    _watch_executions()

NODE_CLASS_MAPPINGS = {"BenchTicks": BenchTicks}
