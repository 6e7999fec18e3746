"""``python -m provisioning``: prepare this host. Sub-commands: ``host`` (all of it), ``comfyui``, ``checkpoint``,
``apply``, ``later`` (what is brought after ComfyUI's start), ``manifest`` (check one without acting); for node packs
``node-install``, ``restore-snapshot``, ``manager-mode``."""

import argparse
import os
import sys
from pathlib import Path

import stamina.instrumentation

from lib.settings import SettingsError, load_settings
from provisioning.comfyui.checkpoint import ensure_random_checkpoint
from provisioning.comfyui.install import ensure_comfyui
from provisioning.comfyui.record import read_record
from provisioning.commands import install_nodes, restore_snapshot, set_manager_mode
from provisioning.error_report import report_error
from provisioning.errors import ProvisioningError, without_secrets
from provisioning.facts import HostFacts
from provisioning.host import apply_only, chosen_manifest, known_host, prepare_host
from provisioning.later import bring
from provisioning.nodes.mode import MODES
from provisioning.settings import default_workspace, read_host_settings, read_install_settings
from provisioning.steps import say

EX_USAGE = 64
ABOUT_FILES = (
    "See that the folder is writable (WORKSPACE_DIR names another one) and its disk has room, then start again."
)


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 is success, 1 a failed step, 2 a wrong command line (64 for the commands that take the
    place of worker-comfyui's), 130 stopped from the keyboard."""
    stamina.instrumentation.set_on_retry_hooks([_tell_retry])
    parsed = _parser().parse_args(arguments)
    if parsed.usage is not None and (usage := parsed.usage(parsed)):
        print(f"usage: {usage}", file=sys.stderr)
        return EX_USAGE
    try:
        parsed.run(parsed)
    except ProvisioningError as error:
        return _failed(error, reports=parsed.reports)
    except OSError as error:
        if error.errno is None:  # requests' own are OSErrors, too
            raise
        return _failed(ProvisioningError(str(error), remedy=ABOUT_FILES), reports=parsed.reports)
    except KeyboardInterrupt:
        print("\nStopped. Start again to go on: what is done is kept.", file=sys.stderr)
        return 130
    return 0


def _failed(error: ProvisioningError, *, reports: bool) -> int:
    print(f"\nFAILED: {error.cause}", file=sys.stderr)
    if error.remedy:
        print(f"Next: {error.remedy}", file=sys.stderr)
    if reports:
        report_error(f"Provisioning failed: {error}", os.environ)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provisioning", description="Prepare this host.")
    parser.set_defaults(usage=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    host = commands.add_parser("host", help="everything that the worker needs before it starts")
    host.set_defaults(run=_host)
    comfyui = commands.add_parser("comfyui", help="find or install ComfyUI")
    comfyui.add_argument("--own", action="store_true", help="install under the workspace, whatever is on the host")
    comfyui.set_defaults(run=_comfyui)
    checkpoint = commands.add_parser("checkpoint", help="make the small random checkpoint for hosts without a GPU")
    checkpoint.set_defaults(run=_checkpoint)
    apply = commands.add_parser("apply", help="carry a manifest out")
    apply.set_defaults(run=_apply)
    check = commands.add_parser("manifest", help="check a manifest without acting")
    check.set_defaults(run=_check)
    later = commands.add_parser("later", help="what the host's manifest brings after ComfyUI's start")
    later.set_defaults(run=_later)
    for command in (apply, check):
        command.add_argument("manifest", nargs="?", help="URL or path; the default is what the environment names")
    for command in (host, comfyui, checkpoint, apply, check, later, *_node_commands(commands)):
        command.add_argument("--workspace", type=Path, help="folder for everything we write (WORKSPACE_DIR)")
        command.set_defaults(reports=command is host)
    return parser


def _node_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> list[argparse.ArgumentParser]:
    install = commands.add_parser("node-install", help="install node packs and see that they import")
    install.add_argument(
        "name", nargs="*", help="git URL (also /tree/REF, /commit/HASH, @REF), or name in the registry"
    )
    install.set_defaults(
        run=_node_install, usage=lambda parsed: "" if parsed.name else "python -m provisioning node-install NAME..."
    )
    restore = commands.add_parser("restore-snapshot", help="restore a snapshot of ComfyUI-Manager")
    restore.add_argument("snapshot", help="URL or path")
    restore.set_defaults(run=_restore)
    mode = commands.add_parser("manager-mode", help="set the network mode of ComfyUI-Manager")
    mode.add_argument("mode", nargs="*", help=", ".join(MODES))
    usage = f"python -m provisioning manager-mode {'|'.join(MODES)}"
    mode.set_defaults(
        run=_mode, usage=lambda parsed: "" if len(parsed.mode) == 1 and parsed.mode[0] in MODES else usage
    )
    return [install, restore, mode]


def _workspace(parsed: argparse.Namespace) -> Path:
    return Path(parsed.workspace or read_host_settings().workspace or default_workspace())


def _host(parsed: argparse.Namespace) -> None:
    try:
        worker = load_settings()
    except SettingsError as error:
        raise ProvisioningError(str(error), remedy="Correct the environment, then start again.") from None
    prepare_host(_workspace(parsed), host=read_host_settings(), install=read_install_settings(), worker=worker)


def _comfyui(parsed: argparse.Namespace) -> None:
    ensure_comfyui(_workspace(parsed), settings=read_install_settings(), search=not parsed.own)


def _checkpoint(parsed: argparse.Namespace) -> None:
    record = read_record(_workspace(parsed))
    if record is None:
        raise ProvisioningError("No ComfyUI is recorded here.", remedy="Run first: python -m provisioning comfyui")
    ensure_random_checkpoint(record)


def _apply(parsed: argparse.Namespace) -> None:
    host = read_host_settings()
    _, manifest = chosen_manifest(host, given=parsed.manifest)
    apply_only(_workspace(parsed), host=host, install=read_install_settings(), manifest=manifest)


def _check(parsed: argparse.Namespace) -> None:
    name, _ = chosen_manifest(read_host_settings(), given=parsed.manifest)
    say(f"{without_secrets(name)} is a valid manifest")


def _later(parsed: argparse.Namespace) -> None:
    bring(_known(parsed))


def _node_install(parsed: argparse.Namespace) -> None:
    install_nodes(parsed.name, _known(parsed))


def _restore(parsed: argparse.Namespace) -> None:
    restore_snapshot(parsed.snapshot, _known(parsed))


def _mode(parsed: argparse.Namespace) -> None:
    workspace = _workspace(parsed).resolve()
    record = read_record(workspace)
    config = read_host_settings().manager_config
    set_manager_mode(parsed.mode[0], config=config, workspace=workspace, root=record.root if record else None)


def _known(parsed: argparse.Namespace) -> HostFacts:
    return known_host(_workspace(parsed).resolve(), host=read_host_settings(), install=read_install_settings())


def _tell_retry(details: stamina.instrumentation.RetryDetails) -> None:
    cause = without_secrets(details.caused_by)
    say(f"    attempt {details.retry_num} failed ({cause}); again in {details.wait_for:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
