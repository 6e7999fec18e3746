"""Under which name a downloaded model lies in ComfyUI's folders: never another file's, never twice. Blocks."""

import os
from collections.abc import Sequence
from pathlib import Path

from lib.comfy.models.index import Index, Model
from lib.comfy.models.names import content_name
from lib.comfy.placing import link_or_copy


def shelve(
    index: Index, model: Model, places: Sequence[Path], *, wanted: str = "", fresh: bool = False
) -> tuple[str, bool]:
    """Have ``model`` in all of ``places``; return its name there, and whether it is new in any of them.

    ``wanted`` is its name where nothing else has it; a file that came from the same URL earlier gives way. ``fresh``:
    nobody was told of a name of it yet. Raises: OSError."""
    model = index.find(model.sha256, now=model.used_at) or model
    name = _name(index, model, places, wanted)
    first = Path(model.paths[0])
    if fresh and first.name != name and first.parent in places:
        _free(index, first.with_name(name))
        model = index.rename(model, first.with_name(name))
    missing = [place / name for place in places if str(place / name) not in model.paths]
    for target in missing:
        _free(index, target)
        link_or_copy(Path(model.paths[0]), target)
    if missing:
        index.add(Model(sha256=model.sha256, size_bytes=model.size_bytes, paths=tuple(map(str, missing))))
    return name, bool(missing) or fresh


def _free(index: Index, target: Path) -> None:
    """What came from the same URL earlier gives way."""
    if index.owner(target) is not None:
        index.drop_path(target)
        target.unlink(missing_ok=True)


def _name(index: Index, model: Model, places: Sequence[Path], wanted: str) -> str:
    first = Path(model.paths[0]).name
    names = [wanted] if wanted else [Path(path).name for path in model.paths if Path(path).parent in places] + [first]
    for name in names:
        if all(_is_free(index, place / name, model, giving_way=bool(wanted)) for place in places):
            return name
    return content_name(wanted or first, sha256=model.sha256, suffix=Path(wanted or first).suffix.lower())


def _is_free(index: Index, path: Path, model: Model, *, giving_way: bool) -> bool:
    if str(path) in model.paths or not os.path.lexists(path):
        return True
    owner = index.owner(path)
    return giving_way and owner is not None and owner.url == model.url
