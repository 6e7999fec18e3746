"""What was downloaded, over restarts: files by content, what each source gave last, transfers that can be resumed.

Only what is recorded here may ever be removed: the operator's own models are not. Everything blocks and is called in
threads; one lock guards it. A record that can't be read costs transfers and nothing else.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)
MOST_SOURCES = 2000
DRAFT_LIFE_S = 86400.0
"""An unfinished transfer that nobody took up again is removed then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One content and where it lies, under each of its names. ``url`` is without secrets; ``used_at``: Unix seconds;
    ``owners`` brought it: tenants, "" for the operator."""

    sha256: str
    size_bytes: int
    paths: tuple[str, ...]
    url: str = ""
    used_at: float = 0.0
    owners: tuple[str, ...] = ()

    @property
    def private(self) -> bool:
        """Whether only tenants brought it."""
        return bool(self.owners) and "" not in self.owners


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a source gave last. ``validators`` are headers for asking whether it changed; ``checked_at`` is when it was
    last asked (Unix seconds)."""

    sha256: str
    validators: Mapping[str, str] = field(default_factory=dict)
    checked_at: float = 0.0


class Index:
    """The record, a JSON file. ``quota_bytes``: what all models may take together, 0 = no limit."""

    def __init__(self, path: Path, *, quota_bytes: int = 0) -> None:
        self._path = path
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Model] | None = None
        self._sources: OrderedDict[str, Known] = OrderedDict()
        self._drafts: dict[str, str] = {}
        self._private: tuple[Model, ...] = ()
        """As they were when the record was last written: for who may not wait."""

    @property
    def quota_bytes(self) -> int:
        return self._quota_bytes

    def find(self, sha256: str, *, now: float) -> Model | None:
        """A model that still is where it was put, whole; it counts as used now."""
        with self._lock:
            model = self._read().get(sha256)
            if model is None:
                return None
            paths = tuple(path for path in model.paths if _is_whole(Path(path), model.size_bytes))
            if not paths:
                del self._read()[sha256]
                return None
            model = self._read()[sha256] = replace(model, paths=paths, used_at=max(now, model.used_at))
            self._read().move_to_end(sha256)
            return model

    def own(self, sha256: str, owner: str) -> None:
        """Somebody has this model by a URL."""
        with self._lock:
            model = self._read().get(sha256)
            if model is not None and owner not in model.owners:
                self._read()[sha256] = replace(model, owners=(*model.owners, owner))
                self._write()

    def load(self) -> None:
        """Read the record."""
        with self._lock:
            self._read()

    def foreign(self, owner: str | None) -> tuple[Model, ...]:
        """Models that only other tenants brought; ``None``: those that any tenant did. Does not block."""
        return () if owner == "" else tuple(model for model in self._private if owner not in model.owners)

    def source(self, identity: str) -> Known | None:
        """What a source gave last time."""
        with self._lock:
            self._read()
            return self._sources.get(identity)

    def learn(self, identities: Collection[str], known: Known) -> None:
        """Remember what a source gave, under all its names."""
        with self._lock:
            self._read()
            for identity in identities:
                self._sources.pop(identity, None)
                self._sources[identity] = known
            while len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)
            self._write()

    def add(self, model: Model) -> Model:
        """Record a model, or more paths of one; return it as it is now."""
        with self._lock:
            held = self._read().pop(model.sha256, None)
            if held is not None:
                used_at = max(held.used_at, model.used_at)
                paths = tuple(dict.fromkeys((*held.paths, *model.paths)))
                url, owners = held.url or model.url, tuple(dict.fromkeys((*held.owners, *model.owners)))
                model = replace(model, paths=paths, url=url, used_at=used_at, owners=owners)
            self._read()[model.sha256] = model
            self._write()
            return model

    def keep(self, model: Model, draft: Path) -> Model:
        """Give a complete draft its name, unless its content is here already; return the model as it is recorded.

        Raises: OSError."""
        held = self.find(model.sha256, now=model.used_at)
        if held is None:
            draft.replace(model.paths[0])
        else:
            draft.unlink(missing_ok=True)
            model = replace(model, paths=held.paths)
        self.end(draft)
        return self.add(model)

    def rename(self, model: Model, path: Path) -> Model:
        """Give the first file of a model another name; return the model as it is now. Raises: OSError."""
        Path(model.paths[0]).rename(path)
        with self._lock:
            model = self._read()[model.sha256] = replace(model, paths=(str(path), *model.paths[1:]))
            self._write()
            return model

    def drop_path(self, path: Path) -> None:
        """A file has another content from now on."""
        with self._lock:
            for sha256, model in list(self._read().items()):
                if str(path) not in model.paths:
                    continue
                if left := tuple(one for one in model.paths if one != str(path)):
                    self._read()[sha256] = replace(model, paths=left)
                else:
                    del self._read()[sha256]
            self._write()

    def owner(self, path: Path) -> Model | None:
        """The model that lies there, if it is one of ours."""
        with self._lock:
            return next((model for model in self._read().values() if str(path) in model.paths), None)

    def begin(self, draft: Path, validator: str) -> None:
        """A transfer goes on in this file, as long as its source is still the same."""
        with self._lock:
            self._read()
            self._drafts[str(draft)] = validator
            self._write()

    def resumable(self, draft: Path) -> str:
        """What the source of an unfinished file has to be still; "" = begin anew."""
        with self._lock:
            self._read()
            return self._drafts.get(str(draft), "") if draft.is_file() else ""

    def end(self, draft: Path) -> None:
        """Nothing is to be resumed there any more."""
        with self._lock:
            self._read()
            if self._drafts.pop(str(draft), None) is not None:
                self._write()

    def give_up(self, draft: Path) -> None:
        """What failed for good is not resumed."""
        draft.unlink(missing_ok=True)
        self.end(draft)

    def make_room(self, needed_bytes: int, *, keep: Collection[str], busy: Collection[Path], now: float) -> list[Model]:
        """Remove models, the least recently used first, until so many more bytes fit under the quota; unfinished
        transfers that nobody works on go before, old ones in any case. ``keep``: digests in use. Return what was
        removed."""
        with self._lock:
            models = self._read()
            self._drop_drafts(busy, before=now - DRAFT_LIFE_S)
            if not self._quota_bytes:
                return []
            excess = sum(model.size_bytes for model in models.values()) + needed_bytes - self._quota_bytes
            removed: list[Model] = []
            if excess > 0:
                self._drop_drafts(busy, before=now)
            for sha256, model in sorted(models.items(), key=lambda item: item[1].used_at):
                if excess <= 0:
                    break
                if sha256 in keep:
                    continue
                for path in model.paths:
                    Path(path).unlink(missing_ok=True)
                excess -= model.size_bytes
                removed.append(models.pop(sha256))
            if removed:
                self._write()
            return removed

    def _drop_drafts(self, busy: Collection[Path], *, before: float) -> None:
        for path in [path for path in map(Path, self._drafts) if path not in busy]:
            if not path.is_file() or path.stat().st_mtime <= before:
                path.unlink(missing_ok=True)
                del self._drafts[str(path)]

    def _read(self) -> OrderedDict[str, Model]:
        if self._models is None:
            self._models = OrderedDict()
            try:
                told = orjson.loads(self._path.read_bytes())
                self._models.update((model.sha256, model) for model in map(_model, told["models"]))
                self._sources.update((name, Known(**facts)) for name, facts in told["sources"].items())
                self._drafts.update((str(path), str(validator)) for path, validator in told["drafts"].items())
            except FileNotFoundError:
                pass
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                facts = {"event": "models.unreadable", "cause": type(error).__name__}
                log.warning("the record of downloaded models can't be read; it begins anew", extra=facts)
            self._private = tuple(model for model in self._models.values() if model.private)
        return self._models

    def _write(self) -> None:
        self._private = tuple(model for model in self._read().values() if model.private)
        told = {
            "models": [asdict(model) for model in self._read().values()],
            "sources": {name: asdict(known) for name, known in self._sources.items()},
            "drafts": self._drafts,
        }
        draft = self._path.with_name(f".{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
            draft.replace(self._path)
        except OSError as error:
            log.warning("downloaded models not recorded", extra={"event": "models.unrecorded", "cause": str(error)})


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(**{**facts, "paths": tuple(facts["paths"]), "owners": tuple(facts.get("owners", ("",)))})


def _is_whole(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False
