"""Which strings of a graph name input files, what form a value has, and which values are refused; pure.

Found are: inputs that ``object_info`` marks for upload, inputs of ComfyUI's own loader nodes, and those of the video
loaders that other services know by name. Nothing else is touched, so that a text may hold a URL.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from lib.errors import UnsafeInput
from lib.jobs.model import NamedInput, Workflow
from lib.storage.guard import MAX_URL_CHARS
from lib.storage.inline import is_data_uri
from lib.storage.media import UNKNOWN

Path = tuple[str | int, ...]
"""Where a value is in a graph: ``("10", "inputs", "image")``."""
UploadInputs = Callable[[str], Collection[str]]
"""Names of a class's inputs that ``object_info`` marks for upload."""


class Form(StrEnum):
    """What a node wants in a field: a name under ComfyUI's input folder, a folder there, or a path on its host."""

    NAME = "name"
    FOLDER = "folder"
    PATH = "path"
    FOLDER_PATH = "folder_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a field is filled. ``accept`` are MIME prefixes (empty: any media); ``under`` is a folder that the node
    insists on, below ComfyUI's input folder; ``loose``: what is no file's content is no file's name either."""

    form: Form = Form.NAME
    accept: tuple[str, ...] = ()
    under: str = ""
    loose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One string that names an input file; ``named`` is the request's own file of that name."""

    path: Path
    value: str
    kind: Kind
    class_type: str = ""
    named: NamedInput | None = None

    @property
    def label(self) -> str:
        """Its place, for messages: ``workflow.10.inputs.image``."""
        return ".".join(("workflow", *map(str, self.path)))


ANY = Kind()
_IMAGE = Kind(accept=("image/",))
_AUDIO = Kind(accept=("audio/", "video/", UNKNOWN))
_VIDEO = Kind(accept=("video/", "image/", UNKNOWN))
"""These loaders take whatever their decoder opens; what nobody can tell by its content is left to it."""
_MODEL = Kind(under="3d")
_FOLDER = Kind(form=Form.FOLDER, accept=("image/",))
_FOLDER_PATH = Kind(form=Form.FOLDER_PATH, accept=("image/",))
_AUDIO_PATH = Kind(form=Form.PATH, accept=_AUDIO.accept)
_IMAGE_PATH = Kind(form=Form.PATH, accept=_IMAGE.accept)
_VIDEO_PATH = Kind(form=Form.PATH, accept=_VIDEO.accept)

LOADERS: Mapping[str, Mapping[str, Kind]] = {
    "LoadImage": {"image": _IMAGE},
    "LoadImageMask": {"image": _IMAGE},
    "LoadImageOutput": {"image": _IMAGE},
    "LoadAudio": {"audio": _AUDIO},
    "LoadVideo": {"file": _VIDEO, "video": _VIDEO},
    "LoadLatent": {"latent": ANY},
    "LoadImageDataSetFromFolder": {"folder": _FOLDER},
    "LoadImageTextDataSetFromFolder": {"folder": _FOLDER},
    "WebcamCapture": {"image": _IMAGE},
    "RecordAudio": {"audio": _AUDIO},
    "Load3D": {"model_file": _MODEL, "image": ANY},
    "Load3DAnimation": {"model_file": _MODEL, "image": ANY},
    "VHS_LoadVideo": {"video": _VIDEO, "file": _VIDEO},
    "VHS_LoadVideoFFmpeg": {"video": _VIDEO, "file": _VIDEO},
    "VHS_LoadVideoPath": {"video": _VIDEO_PATH, "file": _VIDEO_PATH},
    "VHS_LoadVideoFFmpegPath": {"video": _VIDEO_PATH, "file": _VIDEO_PATH},
    "VHS_LoadImagePath": {"image": _IMAGE_PATH},
    "VHS_LoadImages": {"directory": _FOLDER},
    "VHS_LoadImagesPath": {"directory": _FOLDER_PATH},
    "VHS_LoadAudio": {"audio_file": _AUDIO_PATH},
    "VHS_LoadAudioUpload": {"audio": _AUDIO},
}
"""Input fields by node class: ComfyUI 0.3.75's loaders, and VideoHelperSuite's."""
EVERY_CLASS = {"image": Kind(accept=_IMAGE.accept, loose=True)}
"""A constant text in ``image`` means a file in any class, if it is a URL or the file itself..."""
_WANTS_IT_ITSELF = re.compile(r"url|base64", re.IGNORECASE)
"""...but not in nodes that say in their name that they fetch or decode it."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\r\n-]+={0,2}\s*")
MIN_BASE64_CHARS = 24
MAX_NAME_CHARS = 4096
SCHEME_CHARS = 64
_SUFFIX = re.compile(r"^(?P<name>.*?)(?P<space> ?)\[(?:input|output|temp)\]\Z", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")


def is_url(value: str) -> bool:
    """The API wrapper's rule: it parses with a scheme and a host. Blanks around it don't matter."""
    if "://" not in value[:SCHEME_CHARS] or len(value) > MAX_URL_CHARS:
        return False  # the parser keeps what it was given in a cache: spare it whole files
    try:
        parts = urlsplit(value.strip())
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)


def may_be_base64(value: str) -> bool:
    """Whether it could be a file's bytes; names of media files have a dot, base64 never has."""
    return len(value) >= MIN_BASE64_CHARS and _BASE64.fullmatch(value[:512]) is not None


def sites(graph: Workflow, uploads: UploadInputs) -> Iterator[Site]:
    """Find the strings in fields that loader nodes read. Malformed nodes are left for others to refuse."""
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        class_type = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(inputs, dict) or not isinstance(class_type, str):
            continue
        kinds = _kinds_of(class_type, inputs, uploads)
        for name, kind in kinds.items():
            for path, value in _texts(inputs.get(name), (node_id, "inputs", name)):
                yield Site(path=path, value=value, kind=kind, class_type=class_type)


def url_sites(value: Any, path: Path = ()) -> Iterator[Site]:
    """Find every string that is a URL, anywhere: the API wrapper's rule (``INPUT_URLS=any``)."""
    if isinstance(value, str):
        if is_url(value):
            yield Site(path=path, value=value, kind=ANY)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from url_sites(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from url_sites(item, (*path, index))


def loader_kinds(class_type: str, uploads: UploadInputs) -> dict[str, Kind]:
    """The inputs of a class that are known to take a file."""
    return dict.fromkeys(uploads(class_type), ANY) | dict(LOADERS.get(class_type, {}))


def _kinds_of(class_type: str, inputs: Mapping[str, Any], uploads: UploadInputs) -> dict[str, Kind]:
    kinds = loader_kinds(class_type, uploads)
    image = inputs.get("image")
    if "image" not in kinds and isinstance(image, str) and not _WANTS_IT_ITSELF.search(class_type):
        kinds |= EVERY_CLASS if is_url(image) or is_data_uri(image) or may_be_base64(image) else {}
    return {name: kind for name, kind in kinds.items() if name in inputs}


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """A text, texts in a list (a folder's files), texts in an object (views of a 3D node); links hold a number."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield from (((*path, index), item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        yield from (((*path, key), item) for key, item in value.items() if isinstance(item, str))


def safe_name(site: Site) -> str:
    """Return a file name of the caller's as ComfyUI may have it: with ``/``, inside its folder.

    ComfyUI joins these names to its folders without a check, and would read any picture of the host.
    Raises: UnsafeInput, naming node and field.
    """
    if len(site.value) > MAX_NAME_CHARS:
        raise _unsafe(site, "a file's name, a URL, or a file as base64")
    value = name = site.value.replace("\\", "/")
    if (marked := _SUFFIX.match(value)) is not None:
        if not marked["space"]:
            raise _unsafe(site, "' [output]', ' [input]' or ' [temp]' with a space before the bracket")
        name = marked["name"]
    if "\0" in name or any(ord(letter) < 32 for letter in name):
        raise _unsafe(site, "a name without control characters")
    if name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/"):
        raise _unsafe(site, "a name inside ComfyUI's input folder: relative, without '..'")
    return value


def check_named(site: Site, used: Collection[str | int]) -> None:
    """Refuse a picture without a name: ComfyUI would take its whole folder for the file, and fail at run time.

    A loader that no node uses (``used_nodes``) may be left empty, it never runs. Raises: UnsafeInput, naming node and
    field.
    """
    if site.kind == _IMAGE and not site.value.strip("./ ") and site.path[0] in used:
        raise _unsafe(site, "the name of a file in ComfyUI's input folder, a URL, or a file as base64")


def used_nodes(graph: Workflow) -> frozenset[str]:
    """Ids of the nodes that others link to."""
    values = (value for node in graph.values() for value in node["inputs"].values())
    links = (value for value in values if isinstance(value, list) and len(value) == 2)
    return frozenset(value[0] for value in links if isinstance(value[0], str))


def _unsafe(site: Site, expected: str) -> UnsafeInput:
    details = {
        "field": site.label,
        "node_id": str(site.path[0]) if site.path else "",
        "class_type": site.class_type,
        "reason": "unsafe_path",
        "expected": expected,
    }
    return UnsafeInput(f"{site.label}: {site.value[:80]!r} is not allowed; expected {expected}", details=details)


def with_values(graph: Workflow, changes: Mapping[Path, Any]) -> Workflow:
    """Return ``graph`` with values replaced; only what is on the way to a change is copied."""
    copied: dict[Path, Any] = {}
    result: Workflow = dict(graph) if changes else graph
    copied[()] = result
    for path, value in changes.items():
        parent: Any = result
        for depth in range(1, len(path)):
            here = path[:depth]
            if here not in copied:
                inner = parent[path[depth - 1]]
                copied[here] = parent[path[depth - 1]] = list(inner) if isinstance(inner, list) else dict(inner)
            parent = copied[here]
        parent[path[-1]] = value
    return result
