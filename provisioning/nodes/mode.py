"""The network mode of ComfyUI-Manager: the line ``network_mode`` in its ``config.ini``."""

import configparser
import io
from pathlib import Path

from provisioning.errors import ProvisioningError
from provisioning.steps import write_text_atomically

MODES = ("public", "private", "offline")


def set_mode(config: Path, mode: str) -> None:
    """Write the mode; what else the file says stays. Raises ProvisioningError when it is no INI file."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(config)
    except configparser.Error as error:
        raise ProvisioningError(f"{config} is no INI file: {error}", remedy="Correct or remove it.") from error
    if not parser.has_section("default"):
        parser.add_section("default")
    parser.set("default", "network_mode", mode)
    text = io.StringIO()
    parser.write(text)
    write_text_atomically(config, text.getvalue())


def config_files(workspace: Path, root: Path | None) -> tuple[Path, ...]:
    """Name the files that count for each ComfyUI that we start: the Manager keeps its own where ComfyUI hides it."""
    users = sorted((workspace / "user").glob("comfyui-*")) or [workspace / "user" / "comfyui-1"]
    paths = root / "folder_paths.py" if root is not None else None
    hidden = paths is not None and paths.is_file() and "get_system_user_directory" in paths.read_text(errors="replace")
    place = Path("__manager" if hidden else "default/ComfyUI-Manager") / "config.ini"
    return tuple(user / place for user in users)
