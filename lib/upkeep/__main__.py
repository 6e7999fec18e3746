"""``python -m lib.upkeep``: one clean-up, for cron and by hand. Asks the running worker what must stay."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lib.clock import SystemClock
from lib.settings import SettingsError, load_settings
from lib.upkeep.ask import arguments, ask, chosen_areas, door
from lib.upkeep.retention import Live
from lib.upkeep.sweep import sweep
from lib.upkeep.worker import limits_of

NO_WORKER_AGE_FACTOR = 2.0
NO_WORKER_MIN_AGE_S = 3600.0
"""With nobody to say what is live, only files of twice the age go, none of the last hour, and none for a quota."""


def main(argv: Sequence[str] | None = None) -> int:
    """Clean up once; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.upkeep", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    for name, what in (("output", "outputs"), ("input", "inputs (only pyworker/ in it)"), ("temp", "temp files")):
        parser.add_argument(
            f"--{name}", type=Path, action="append", default=[], metavar="DIR", help=f"folder of {what}; repeatable"
        )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    workspace = settings.engine.workspace.resolve()
    told = ask(door(workspace, settings.server.api_port))
    limits = limits_of(settings.upkeep, settings.storage)
    if told is None:
        max_age_s = max(limits.max_age_s * NO_WORKER_AGE_FACTOR, NO_WORKER_MIN_AGE_S)
        limits = replace(limits, max_age_s=max_age_s, input_quota_bytes=sys.maxsize)
    given = arguments(options.output, options.input, options.temp)
    areas = chosen_areas(given, told, workspace, fetched=settings.inputs_folder)
    live = told.live if told is not None else Live()
    report = sweep(areas, limits, live=live, now_s=SystemClock().now().timestamp(), dry_run=options.dry_run)
    verb = "would be removed" if options.dry_run else "removed"
    for path in report.files:
        sys.stdout.write(f"{verb}: {path}\n")
    sys.stdout.write(f"{len(report.files)} files {verb}, {report.freed_bytes} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
