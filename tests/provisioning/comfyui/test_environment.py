"""The interpreter's packages: what is left out, and that no host without a GPU gets CUDA."""

import sys
import zipfile
from pathlib import Path

import pytest

from provisioning.comfyui.environment import detect_device, refuse_cuda, wanted_packages
from provisioning.comfyui.locate import imports
from provisioning.comfyui.record import Device, InstallRecord
from provisioning.errors import ProvisioningError


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write the least wheel that pip takes."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {item}\n" for item in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path


@pytest.mark.parametrize(
    ("script", "device"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", Device.CUDA),
        ("echo 'No devices were found'", Device.CPU),
        ("echo 'GPU access blocked'; exit 9", Device.CPU),
        (None, Device.CPU),
    ],
)
def test_the_driver_says_whether_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, device: Device
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_device() is device


def test_torch_and_the_gallery_are_left_out() -> None:
    text = "torch\ntorchvision>=0.1\ntorchsde # kept\n\n#note\ncomfyui-workflow-templates==0.7.25\nav>=14.2.0\n"
    assert wanted_packages(text) == ("torchsde", "av>=14.2.0")


def test_cuda_packages_are_refused_by_name(index: Path) -> None:
    wheel(index, "torch", "2.13.0", "nvidia-cublas", "filelock")
    wheel(index, "nvidia_cublas", "13.0")
    wheel(index, "filelock", "3.0")
    with pytest.raises(ProvisioningError, match=r"no GPU.*nvidia[-_]cublas"):
        refuse_cuda(Path(sys.executable))


def test_cpu_build_passes(index: Path) -> None:
    wheel(index, "torch", "2.13.0+cpu", "filelock")
    wheel(index, "filelock", "3.0")
    refuse_cuda(Path(sys.executable))


def test_absent_torch_is_said_with_what_to_do(index: Path) -> None:
    with pytest.raises(ProvisioningError, match="TORCH_CPU_INDEX_URL"):
        refuse_cuda(Path(sys.executable))


@pytest.mark.comfyui
def test_stand_ins_are_there_only_where_the_real_packages_fail(installed: InstallRecord) -> None:
    """What ``PYTHONPATH`` adds is what the environment lacks."""
    path = installed.env.get("PYTHONPATH", "")
    assert imports(installed.python, "torch, torchvision, torchaudio", python_path=path)
    if not path:
        return
    shims = {entry.name for entry in Path(path).iterdir()}
    assert ("sitecustomize.py" in shims) is not imports(installed.python, "torchvision")
    assert ("torchaudio" in shims) is not imports(installed.python, "torchaudio")
