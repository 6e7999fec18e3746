"""The provisioning manifest: what a host gets before ComfyUI starts. Shape and checks only; ``apply`` acts.

YAML, for example::

    version: 1
    models:                      # under <ComfyUI>/models
      - path: checkpoints/sd15.safetensors
        url: https://example.com/sd15.safetensors   # or s3://bucket/key, with AWS_*
        size_bytes: 2132626066   # optional, checked before the first byte is stored
        sha256: 64 hex digits    # optional, pinned by the first download where it is missing
        after_start: true        # brought while the worker serves; its failure holds nothing back
    files:                       # under the workspace, under ComfyUI's folder, or under root: the file system
      - {path: user/default/comfy.settings.json, under: comfyui, content: "{}"}
    scripts:                     # bash, in order, each run once for its text
      - {name: fonts, run: "fc-cache -f"}
    cron:
      - {name: upkeep, schedule: "*/10 * * * *", module: lib.upkeep}
    custom_nodes:                # git URLs (also /tree/<ref>, /commit/<hash>, @<ref>) or names in the node registry
      - https://github.com/owner/pack@v1.2
      - {source: some-pack, ref: 1.0.3, optional: true}
    pip: ["numpy<3"]             # into the interpreter that ComfyUI runs in
    apt: [libgl1]
    snapshot: auto               # ComfyUI-Manager's: a path, a URL, or *snapshot*.json of the volume or the workspace

Every entry takes ``optional: true`` (its failure doesn't hold the worker back) and ``when`` (a list of conditions that
must all hold: ``gpu``, ``cpu``, ``default_benchmark``); a package that is a bare text here is written as a table for
that: ``{name: libgl1, when: [gpu]}``. A pack whose ref is not given is pinned to what its first installation found.
The manifest of Salad's comfyui-api, which has its models in two lists, is one too (``provisioning.salad``).
"""

import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import requests
import yaml
from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from provisioning.apt import PACKAGE
from provisioning.errors import ProvisioningError
from provisioning.nodes.source import PackSource, parse_source
from provisioning.salad import ADDRESS, in_our_form

LIMIT_BYTES = 1 << 20
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
DEFAULT_MANIFEST = Path(__file__).with_name("default.yaml")


class Condition(StrEnum):
    """What may have to hold for an entry to apply."""

    GPU = "gpu"
    CPU = "cpu"
    DEFAULT_BENCHMARK = "default_benchmark"


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.name or re.search(r"[\x00-\x1f\\]", text):
        raise ValueError("expected a relative path that stays inside its folder")
    return str(path)


def _schedule(text: str) -> str:
    try:
        CronSim(text, _EPOCH)
    except CronSimError as error:
        raise ValueError(f"expected a cron schedule of five fields ({error})") from None
    return text


RelativePath = Annotated[str, AfterValidator(_inside)]
WebAddress = Annotated[str, Field(pattern=ADDRESS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Entry(BaseModel):
    """What every entry takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optional: bool = False
    when: tuple[Condition, ...] = ()


class ModelFile(Entry):
    """A file that is downloaded into ComfyUI's ``models`` folder."""

    path: RelativePath
    url: WebAddress
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    sha256: Sha256 | None = None
    after_start: bool = False


class PlainFile(Entry):
    """A file by URL or with its text given here; ``under`` names the folder that it may not leave."""

    path: RelativePath
    under: Literal["workspace", "comfyui", "root"] = "workspace"
    url: WebAddress | None = None
    content: str | None = None
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    sha256: Sha256 | None = None
    after_start: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.content is None):
            raise ValueError("expected either url or content")
        if self.after_start and self.url is None:
            raise ValueError("after_start is for what has a url")
        return self


class Script(Entry):
    """Bash text that is run once; a changed text runs again."""

    name: Name
    run: Annotated[str, Field(min_length=1)]


class CronEntry(Entry):
    """A module of this project that cron starts."""

    name: Name
    schedule: Annotated[str, AfterValidator(_schedule)]
    module: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$")] = "lib.upkeep"


class CustomNode(Entry):
    """A node pack; ``name`` is its folder under ``custom_nodes`` where that is not the repository's own name."""

    source: str
    ref: str | None = None
    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _ = self.pack
        return self

    @property
    def pack(self) -> PackSource:
        """What is meant. Never fails on a validated entry."""
        return parse_source(self.source, ref=self.ref)


class Package(Entry):
    """A package by its name, with what its installer takes beside it."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class PythonPackage(Package):
    """A requirement as pip takes it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\x00-\x1f]*$")]


class DebianPackage(Package):
    """A package of Debian or Ubuntu, ``name`` or ``name=version``."""

    name: Annotated[str, Field(pattern=rf"^{PACKAGE.pattern}$")]


class Manifest(BaseModel):
    """A whole manifest; targets are distinct."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    models: tuple[ModelFile, ...] = ()
    files: tuple[PlainFile, ...] = ()
    scripts: tuple[Script, ...] = ()
    cron: tuple[CronEntry, ...] = ()
    custom_nodes: tuple[CustomNode, ...] = ()
    pip: tuple[PythonPackage, ...] = ()
    apt: tuple[DebianPackage, ...] = ()
    snapshot: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        targets = [("models", model.path) for model in self.models] + [(file.under, file.path) for file in self.files]
        names = [("script", script.name) for script in self.scripts] + [("cron", entry.name) for entry in self.cron]
        names += [("custom_nodes", (node.name or node.pack.name).lower()) for node in self.custom_nodes]
        seen: set[tuple[str, str]] = set()
        for item in (*targets, *names):
            if item in seen:
                raise ValueError(f"{item[0]}: {item[1]} is given twice")
            seen.add(item)
        return self

    def parted(self) -> tuple["Manifest", "Manifest"]:
        """Give what there is to do before ComfyUI starts, and what afterwards."""
        before = {
            "models": tuple(model for model in self.models if not model.after_start),
            "files": tuple(file for file in self.files if not file.after_start),
        }
        models = tuple(model for model in self.models if model.after_start)
        files = tuple(file for file in self.files if file.after_start)
        return self.model_copy(update=before), Manifest(models=models, files=files)


def load_manifest(location: str | Path, *, timeout_s: float = 30.0) -> Manifest:
    """Read a manifest from a URL or a path. Raises ProvisioningError that names each wrong field."""
    return parse_manifest(read_location(str(location), timeout_s=timeout_s), name=str(location))


def parse_manifest(text: str, *, name: str) -> Manifest:
    """Read a manifest: JSON where ``name`` says so, else YAML. Raises ProvisioningError that names each wrong field."""
    is_json = name.endswith("_JSON") or urlsplit(name).path.endswith(".json")
    try:
        values = json.loads(text) if is_json else yaml.safe_load(text)
        return Manifest.model_validate({} if values is None else in_our_form(values))
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        kind = "JSON" if is_json else "YAML"
        raise ProvisioningError(f"{name} is not {kind}: {error}", remedy="Correct the manifest.") from None
    except ValidationError as error:
        lines = "; ".join(_explain(item) for item in error.errors())
        raise ProvisioningError(f"{name}: {lines}", remedy="Correct the manifest.") from None


def read_location(location: str, *, timeout_s: float = 30.0) -> str:
    """Give the text at a URL or path, 1 MiB at most. Raises ProvisioningError."""
    try:
        raw = _get(location, timeout_s=timeout_s) if _is_url(location) else Path(location).read_bytes()
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:  # requests' errors are OSErrors
        raise ProvisioningError(f"{location} can't be read: {error}", remedy="Correct the address.") from error
    if len(raw) > LIMIT_BYTES:
        raise ProvisioningError(f"{location} is over 1 MiB.", remedy="Name a manifest or a script.")
    return text


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _get(url: str, *, timeout_s: float) -> bytes:
    with requests.get(url, timeout=timeout_s, stream=True) as response:
        response.raise_for_status()
        content = bytearray()
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > LIMIT_BYTES:
                break
        return bytes(content)


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
