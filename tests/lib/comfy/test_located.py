"""lib.comfy.located: what a ComfyUI tells of its folders. (That they are believed only when seen: test_attached.)"""

from pathlib import Path

from lib.comfy.located import told_folders


def test_what_a_server_tells_of_itself() -> None:
    """Its flags come first, then its base folder; without either nothing is known."""
    assert told_folders(["main.py"], None) is None
    told = told_folders(["main.py", "--temp-directory", "/t"], Path("/comfy"))
    assert told is not None and (told.output, told.temp) == (Path("/comfy/output"), Path("/t/temp"))
