"""Settings that only the preparation of a host needs; the worker's own are in ``lib.settings``.

Read once, in ``provisioning.__main__``. An empty variable counts as unset.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError

from lib.settings import EnvironmentSettings, Flag, SaladSettings, SettingsError
from provisioning.comfyui.record import Device
from provisioning.errors import ProvisioningError

if TYPE_CHECKING:
    from lib.storage.operator_urls import OperatorUrls

REPOSITORY = Path(__file__).resolve().parent.parent
VAST_SIGN_URL = "https://console.vast.ai/api/v0/sign_cert/"
Model = TypeVar("Model", bound=EnvironmentSettings)


class InstallSettings(EnvironmentSettings):
    """Where ComfyUI comes from and what it runs on."""

    install_path: Path | None = Field(
        None,
        validation_alias=AliasChoices("COMFYUI_INSTALL_PATH", "COMFY_HOME"),
        description="Folder of an installed ComfyUI (with main.py).",
    )
    python: Path | None = Field(
        None, validation_alias="COMFYUI_PYTHON", description="Interpreter of an installed ComfyUI."
    )
    ref: str = Field(
        "v0.3.75", validation_alias="COMFYUI_REF", description="Tag, branch or commit of ComfyUI that is installed."
    )
    git_url: str = Field(
        "https://github.com/comfyanonymous/ComfyUI",
        validation_alias="COMFYUI_GIT_URL",
        description="Repository that ComfyUI is cloned from.",
    )
    torch_index_url: str | None = Field(
        None, validation_alias="TORCH_INDEX_URL", description="Package index of torch for GPU hosts; unset = PyPI."
    )
    torch_cpu_index_url: str = Field(
        "https://download.pytorch.org/whl/cpu",
        validation_alias="TORCH_CPU_INDEX_URL",
        description="Package index of torch without CUDA, for hosts without a GPU.",
    )
    device: Device | None = Field(
        None,
        validation_alias="COMFYUI_DEVICE",
        description="cpu or cuda, for what torch is installed; the driver is asked when unset (a build has none).",
    )
    probe_timeout_s: float = Field(
        5.0, validation_alias="PROBE_TIMEOUT_S", gt=0, description="How long a public host may take to answer."
    )


class HostSettings(EnvironmentSettings):
    """What ``python -m provisioning host`` does beyond the installation."""

    workspace: Path | None = Field(
        None,
        validation_alias=AliasChoices("WORKSPACE_DIR", "WORKSPACE"),
        description="Folder for everything we write; /workspace if writable, else workspace/ in the checkout.",
    )
    script: str | None = Field(
        None, validation_alias="PROVISIONING_SCRIPT", description="Bash script (URL or path) run once, before ComfyUI."
    )
    own_manifest: str | None = Field(
        None, validation_alias="PYWORKER_MANIFEST", description="Manifest (URL or path), also on Vast's images."
    )
    image_manifest: str | None = Field(
        None,
        validation_alias="PROVISIONING_MANIFEST",
        description="The same; where a supervisor owns ComfyUI the image reads it, in a format of its own.",
    )
    parallel_downloads: int = Field(
        4, validation_alias="PROVISIONING_PARALLEL", ge=1, le=32, description="Downloads at the same time."
    )
    snapshot: str | None = Field(
        None,
        validation_alias="COMFYUI_SNAPSHOT",
        description="Snapshot of ComfyUI-Manager to be restored (URL or path); auto = *snapshot*.json of the network "
        "volume, else of the workspace.",
    )
    registry_url: str = Field(
        "https://api.comfy.org",
        validation_alias="COMFY_REGISTRY_URL",
        description="Registry of node packs, for packs that are named without a URL.",
    )
    manager_config: Path | None = Field(
        None,
        validation_alias="COMFYUI_MANAGER_CONFIG",
        description="config.ini of ComfyUI-Manager; that of each ComfyUI which we start when unset.",
    )
    hf_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="Sent to huggingface.co, and only there."
    )
    cron_dir: Path = Field(
        Path("/etc/cron.d"), validation_alias="CRON_DIR", description="Where the clean-up's cron entry is installed."
    )
    csr_path: Path = Field(
        Path("/etc/instance.csr"), validation_alias="SSL_CSR_PATH", description="Certificate signing request, PEM."
    )
    sign_url: str = Field(
        VAST_SIGN_URL,
        validation_alias="CERT_SIGN_URL",
        description="Signs the certificate request; ?instance_id=<CONTAINER_ID> is added. A router's is "
        "<its URL>/api/v0/sign_cert/; any but Vast's is shown PUBLIC_IPADDR and MASTER_TOKEN.",
    )
    sign_wait_s: float = Field(
        2.0, validation_alias="CERT_SIGN_WAIT_S", ge=0, description="First pause between attempts; doubles up to 8 x."
    )
    model_log: Path | None = Field(
        None, validation_alias="MODEL_LOG", description="Log of the supervised ComfyUI, for ROTATE_MODEL_LOG."
    )
    rotate_model_log: Flag = Field(
        False, validation_alias="ROTATE_MODEL_LOG", description="true = append MODEL_LOG to <name>.old and empty it."
    )
    benchmark_json: Path | None = Field(
        None, validation_alias="BENCHMARK_JSON_PATH", description="The operator's own benchmark workflow."
    )

    manifest_json: SecretStr | None = Field(
        None, validation_alias="MANIFEST_JSON", description="A manifest itself, as JSON; Salad's form or ours."
    )
    manifest_path: str | None = Field(
        None,
        validation_alias="MANIFEST",
        description="A manifest (path or URL, .json, .yml, .yaml), where none of the others is named.",
    )

    def urls(self) -> "OperatorUrls":
        """Read what the operator names. Raises ProvisioningError: keys that can't be used."""
        from lib.storage.operator_urls import OperatorUrls  # the worker imports this module, and needs no HTTP client

        try:
            return OperatorUrls(_read(SaladSettings))
        except SettingsError as error:
            raise ProvisioningError(str(error), remedy="Correct the variable and start again.") from None


def read_install_settings() -> InstallSettings:
    """Read the environment. Raises ProvisioningError that names the variable and what was expected."""
    return _read(InstallSettings)


def read_host_settings() -> HostSettings:
    """Read the environment. Raises ProvisioningError that names the variable and what was expected."""
    return _read(HostSettings)


def _read(model: type[Model]) -> Model:
    try:
        return model()
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ProvisioningError("; ".join(lines), remedy="Correct the variable and start again.") from None


def default_workspace() -> Path:
    """Give the workspace of a host that names none, as ``start_server.sh`` chooses it."""
    shared = Path("/workspace")
    return shared if shared.is_dir() and _writable(shared) else REPOSITORY / "workspace"


def _writable(folder: Path) -> bool:
    try:
        probe = folder / ".pyworker-writable"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
