"""``python -m provisioning``: prepare this host. Sub-commands: ``comfyui``, ``checkpoint``."""

import argparse
import sys
from pathlib import Path

from provisioning.comfyui.checkpoint import ensure_random_checkpoint
from provisioning.comfyui.install import ensure_comfyui
from provisioning.comfyui.record import read_record
from provisioning.errors import ProvisioningError
from provisioning.settings import default_workspace, read_host_settings, read_install_settings


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 is success, 1 a failed step, 2 a wrong command line."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except ProvisioningError as error:
        print(f"\nFAILED: {error.cause}", file=sys.stderr)
        if error.remedy:
            print(f"Next: {error.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Start again to go on: what is done is kept.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provisioning", description="Prepare this host.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    comfyui = commands.add_parser("comfyui", help="find or install ComfyUI")
    comfyui.add_argument("--own", action="store_true", help="install under the workspace, whatever is on the host")
    comfyui.set_defaults(run=_comfyui)
    checkpoint = commands.add_parser("checkpoint", help="make the small random checkpoint for hosts without a GPU")
    checkpoint.set_defaults(run=_checkpoint)
    for command in (comfyui, checkpoint):
        command.add_argument("--workspace", type=Path, help="folder for everything we write (WORKSPACE_DIR)")
    return parser


def _workspace(parsed: argparse.Namespace) -> Path:
    return Path(parsed.workspace or read_host_settings().workspace or default_workspace())


def _comfyui(parsed: argparse.Namespace) -> None:
    ensure_comfyui(_workspace(parsed), settings=read_install_settings(), search=not parsed.own)


def _checkpoint(parsed: argparse.Namespace) -> None:
    record = read_record(_workspace(parsed))
    if record is None:
        raise ProvisioningError("No ComfyUI is recorded here.", remedy="Run first: python -m provisioning comfyui")
    ensure_random_checkpoint(record)


if __name__ == "__main__":
    sys.exit(main())
