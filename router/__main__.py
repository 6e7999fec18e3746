"""``python -m router``: run the router until it is told to stop (SIGTERM, SIGINT)."""

import argparse
import logging
import sys

import uvloop

from lib.serving.server import PortTaken
from lib.settings import SettingsError
from lib.telemetry.logs import configure_logging
from router.app import Router
from router.assembly import PARTS
from router.settings import load_router_settings

log = logging.getLogger(__name__)
FAILED, INTERRUPTED = 1, 130
ABOUT = "One address for many workers. Variables of the environment set it (router/README.md); none has to be set."


def main() -> int:
    """Run; the exit status. What is wrong with a setting, or with the start, is said in a line."""
    argparse.ArgumentParser(prog="python -m router", description=ABOUT).parse_args()
    try:
        settings = load_router_settings()
        configure_logging(level=settings.log_level, log_format=settings.log_format)
        return uvloop.run(Router(settings, parts=PARTS).run())
    except KeyboardInterrupt:
        return INTERRUPTED
    except (SettingsError, PortTaken) as error:
        return _failed(error)
    except Exception as error:
        log.critical("the router ended: %s", error, extra={"event": "router.failed"}, exc_info=error)
        return _failed(error)


def _failed(error: Exception) -> int:
    sys.stderr.write(
        f"\nFAILED: {error}\nNext: mend the cause, and start again; router/README.md lists the settings.\n"
    )
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
