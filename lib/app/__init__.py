"""Assembly: the one place that builds every object and sees every package. ``run`` is the worker."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import stamina
import uvloop

from lib.app.after_start import Bringer
from lib.app.assembly import Worker
from lib.app.boot import BootBenchmark
from lib.errors import ServiceError
from lib.serving.server import PortTaken
from lib.settings import Settings, SettingsError
from lib.telemetry.logs import configure_logging

__all__ = ["BootBenchmark", "run"]

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    *,
    boot_benchmark: BootBenchmark,
    after_start: Bringer | None = None,
    test_job: Mapping[str, Any] | None = None,
) -> int:
    """Run the worker until it is told to stop (SIGTERM, SIGINT), or has done ``test_job``; return the exit status.

    ``after_start`` is what is brought while it serves."""
    stamina.instrumentation.set_on_retry_hooks(())  # its default registers metrics of its own, at the first retry
    configure_logging(level=settings.telemetry.log_level, log_format=settings.telemetry.log_format)
    try:
        worker = Worker(settings, boot_benchmark=boot_benchmark, after_start=after_start, test_job=test_job)
        status = uvloop.run(worker.run())
        log.info("the worker has ended", extra={"event": "worker.ended", "status": status})
        return status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        told = isinstance(error, SettingsError | ServiceError | PortTaken)  # their sentence says what to do
        log.critical("the worker ended: %s", error, extra={"event": "worker.failed"}, exc_info=None if told else error)
        remedy = "mend that" if told else "see the lines above, mend the cause"
        sys.stderr.write(f"\nFAILED: {error}\nNext: {remedy}, and start again.\n")
        return 1
