"""Whether a supervisor of the host's image owns ComfyUI. Blocks: call it in a thread."""

import shutil
import subprocess
from pathlib import Path

FOLDER = Path("/etc/supervisor/conf.d")
TIMEOUT_S = 10


def owns_comfyui() -> bool:
    """True when supervisor has a program for ComfyUI: then nobody else may start one."""
    if FOLDER.is_dir() and any(FOLDER.glob("*comfyui*.conf")):
        return True
    if shutil.which("supervisorctl") is None:
        return False
    try:
        status = subprocess.run(
            ["supervisorctl", "status", "comfyui"], capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return any(word in status.stdout for word in (b"RUNNING", b"STARTING", b"STOPPED"))
