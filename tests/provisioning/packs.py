"""Node packs for the tests: their files, commits, a wheel that pip installs without a network."""

import subprocess
import zipfile
from pathlib import Path

from provisioning.interpreter import Interpreter

NODE = """
class {name}:
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{}}}}
    def go(self):
        return (1,)

NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
"""


def write_pack(folder: Path, **files: str) -> None:
    """Lay a pack down; ``requirements`` and the like by their stem, with ``_`` for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"__init___py": NODE.format(name="Test"), **files}.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text)


def commit_of(folder: Path, ref: str = "HEAD") -> str:
    done = subprocess.run(["git", "-C", folder, "rev-parse", ref], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "VALUE = 1\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def imports_here(interpreter: Interpreter, module: str) -> bool:
    done = subprocess.run([interpreter.python, "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", folder, *arguments],
        check=True,
        capture_output=True,
    )


def plant(folder: Path, version: str) -> None:
    """Lay down what makes a folder a ComfyUI."""
    (folder / "comfy").mkdir(parents=True, exist_ok=True)
    (folder / "comfy" / "__init__.py").touch()
    (folder / "main.py").write_text("print('ComfyUI')\n")
    (folder / "requirements.txt").write_text("# none\n")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
