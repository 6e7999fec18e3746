"""Writes ``docs/reference.md`` from the code: settings, metrics, error codes, routes.

``python -m docs.build_reference``, from the repository's root, writes the file; ``tests/contract/test_reference.py``
fails while it is out of date.
What the code can't say about itself (variables of the start script, routes outside the OpenAPI document) has its
sentence in a table here; an entry without one stops the build.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from prometheus_client.parser import text_string_to_metric_families
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from benchmark.settings import BenchmarkSettings
from docs import of_the_router
from docs.outside import IMAGE, INTERNAL, NOT_READ, PUBLIC_ROUTES, ROUTES, STARTER
from lib import errors
from lib.app.counting import announce
from lib.app.document import Document
from lib.app.shared import SharedPaths
from lib.app.sites import api_site, plain_site, public_site
from lib.comfy.ports import CareAction
from lib.dialects.native.inputs import Inputs
from lib.dialects.native.outputs import OutputFiles
from lib.dialects.native.routes import NativeDialect
from lib.dialects.runpod import docs as runpod_docs
from lib.dialects.runpod.routes import PREFIX as RUNPOD
from lib.dialects.runpod.routes import RunPodDialect
from lib.dialects.salad.routes import SaladDialect
from lib.dialects.vast import translate as vast
from lib.dialects.vast.routes import VastDialect
from lib.dialects.wrapper import docs as wrapper_docs
from lib.dialects.wrapper import render as wrapper
from lib.dialects.wrapper.routes import WrapperDialect
from lib.dialects.wrapper.translate import NAME as WRAPPER
from lib.errors import ErrorCode, ServiceError
from lib.jobs.model import JobStatus
from lib.serving.access import Access
from lib.serving.application import Site
from lib.serving.errors import status_of
from lib.serving.probes import Probes
from lib.settings import Settings
from lib.telemetry.metrics import WorkerMetrics
from lib.upkeep.worker import Upkeep
from provisioning.settings import HostSettings, InstallSettings
from router.settings import RouterSettings

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference.md"
COMMAND = "python -m docs.build_reference"
HEAD = f"""# Reference

Written by `{COMMAND}` from the code; don't edit it by hand.

## Environment variables

All are optional, but for what serverless mode needs (`CONTAINER_ID`, `REPORT_ADDR` or `SERVERLESS=true`,
`PUBLIC_IPADDR` and the mapped port, which Vast sets). A variable that is set to an empty string counts as unset. A
wrong value stops the start and names the variable, the value and what was expected. Where several names are given,
the first one wins. Flags are true for `1`, `true`, `t`, `yes`, `y`, `on` in any letter case, and false for anything
else (the router's: anything but the opposites of these stops the start). Lists are separated by commas. Sizes are
bytes, times are seconds.
"""
HTTP_CODES = """
Errors that no job and no dialect has: `bad_request` 400, `not_found` 404, `method_not_allowed` 405,
`unsupported_media_type` 415, with `message` and `request_id`. Every answer carries `X-Request-ID`; one that the caller
sends (letters, digits, `.`, `_`, `:`, `-`) is kept and is in the log.
"""


def main() -> int:
    """Write the file."""
    TARGET.write_text(build(), encoding="utf-8")
    sys.stdout.write(f"{TARGET} is written\n")
    return 0


def build() -> str:
    """Return the whole document."""
    parts = [HEAD, *_settings(), *_starter(), *_metrics(), *_errors(), *_routes()]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


# -- settings --------------------------------------------------------------------------------------------------------


def settings_fields() -> Iterable[tuple[str, str, str, FieldInfo]]:
    """Give each setting: heading, the branch's sentence, the field's name, the field."""
    branches: list[tuple[str, Any]] = [
        *((name.capitalize(), branch.annotation) for name, branch in Settings.model_fields.items()),
        ("Benchmark", BenchmarkSettings),
        ("Installation of ComfyUI", InstallSettings),
        ("Host", HostSettings),
        ("Router", RouterSettings),
    ]
    for heading, model in branches:
        for field, info in model.model_fields.items():
            yield heading, _sentence(model), field, info


def _settings() -> Iterable[str]:
    seen: set[str] = set()
    heading = ""
    rows: list[Sequence[str]] = []
    for title, sentence, name, info in settings_fields():
        if title != heading:
            yield from _table(_SETTING_COLUMNS, rows)
            heading, rows = title, []
            yield f"### {title}\n\n{sentence}"
        names = variables(info)
        if seen.isdisjoint(names):
            rows.append((_codes(names), _kind(name, info), _default(info), _bounds(info), _text(str(info.description))))
        seen.update(names)
    yield from _table(_SETTING_COLUMNS, rows)


_SETTING_COLUMNS = ("variable", "value", "default", "bounds", "meaning")


def variables(info: FieldInfo) -> list[str]:
    """Names under which a setting is read, the one that wins first."""
    alias = info.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


def _kind(name: str, info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(info.annotation))
    unit = next((text for end, text in (("_s", "seconds"), ("_bytes", "bytes")) if name.endswith(end)), "")
    if get_origin(info.annotation) is tuple:
        return "list"
    words = {bool: "flag", int: unit or "integer", float: unit or "number", Path: "path", SecretStr: "secret"}
    return next((word for kind, word in words.items() if kind in _parts(info.annotation)), "text")


def _parts(annotation: Any) -> set[Any]:
    """The types inside a union, without what ``Annotated`` adds."""
    return {annotation}.union(*(_parts(part) for part in get_args(annotation)))


def _default(info: FieldInfo) -> str:
    value = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
    if value is None or value in ((), ""):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _bounds(info: FieldInfo) -> str:
    found = []
    for item in info.metadata:
        match item:
            case Ge(ge=bound):
                found.append(f"≥ {bound}")
            case Gt(gt=bound):
                found.append(f"> {bound}")
            case Le(le=bound):
                found.append(f"≤ {bound}")
            case Lt(lt=bound):
                found.append(f"< {bound}")
    return ", ".join(found)


def _starter() -> Iterable[str]:
    yield "### Start script\n\nRead by `start_server.sh`, the launcher and the Makefile only."
    known = {name for *_, info in settings_fields() for name in variables(info)}
    found = starter_variables() - known - INTERNAL
    if found != set(STARTER):
        raise SystemExit(f"{__file__}: STARTER and the start scripts differ: {sorted(found ^ set(STARTER))}")
    yield from _table(("variable", "default", "meaning"), [(f"`{name}`", *STARTER[name]) for name in sorted(STARTER)])
    yield "### Image for RunPod\n\nRead by `provisioning/runpod/` only; see its README.md."
    yield from _table(("variable", "default", "meaning"), [(f"`{name}`", *IMAGE[name]) for name in sorted(IMAGE)])
    yield "### Not read\n\nVariables of comfyui-api and worker-comfyui that are accepted and do nothing."
    yield from _table(("variable", "why"), [(f"`{name}`", NOT_READ[name]) for name in sorted(NOT_READ)])


def starter_variables() -> set[str]:
    """Names of the variables that the start scripts read."""
    script = (ROOT / "start_server.sh").read_text(encoding="utf-8")
    launcher = (ROOT / "workers" / "comfyui-json" / "worker.py").read_text(encoding="utf-8")
    report = (ROOT / "provisioning" / "error_report.py").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{([A-Z][A-Z_]+)(?:,,)?:-", script))
    names |= set(re.findall(r"environ\.get\(\"([A-Z_]+)\"", launcher + report))
    return names | {
        name for name in re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE) if name.startswith("COMFYUI")
    }


# -- metrics ---------------------------------------------------------------------------------------------------------


def _metrics() -> Iterable[str]:
    yield "## Metrics\n\n`GET /metrics` on the API listener, Prometheus text format. Labels are closed sets."
    yield from _family_table(metric_families())
    outcomes = _codes([status.value for status in JobStatus if status.terminal])
    yield (
        f"`outcome`: {outcomes}. `dialect`: `{WRAPPER}` (API listener), `{vast.NAME}` (signed). `stage`: "
        "`prepare` (inputs fetched), `wait` (for an engine), `execute` (ComfyUI), `collect` (outputs found), `deliver` "
        f"(uploads, base64). `engine`: `comfyui-1`, `comfyui-2`, ... `action`: {_codes(list(CareAction))}. `code`: the "
        "error codes below. `source`: `fetched`, `cached`. `result`: `delivered`, `failed` (it is tried again), `dead` "
        "(given up). Runs of the boot benchmark are not counted."
    )
    yield "### Metrics of the router\n\n`GET /metrics` of the router. A unit is a hundredth of a worker's benchmark."
    yield from _family_table(_families(of_the_router.exposition()))
    yield of_the_router.values()


def _family_table(families: Iterable[tuple[str, str, Sequence[str], str]]) -> Iterable[str]:
    rows = [(f"`{name}`", kind, _codes(labels), text) for name, kind, labels, text in families]
    return _table(("family", "type", "labels", "meaning"), rows)


def metric_families() -> Iterable[tuple[str, str, Sequence[str], str]]:
    """Name as exposed, type, labels, help; from a registry in which every family has a sample."""
    metrics = WorkerMetrics()
    announce(metrics, dialects=[WRAPPER])
    metrics.job_took(dialect=WRAPPER, duration_s=1.0)
    metrics.stage_took("execute", 1.0)
    metrics.engine("comfyui-1", up=True)
    return _families(metrics.render()[0].decode())


def _families(exposition: str) -> Iterable[tuple[str, str, Sequence[str], str]]:
    for family in text_string_to_metric_families(exposition):
        if family.type == "gauge" and family.name.endswith("_created"):  # when a counter or histogram was made
            continue
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        if not samples:
            raise SystemExit(f"{__file__}: give {family.name} a sample in metric_families")
        labels = [label for label in samples[0].labels if label != "le"]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, labels, family.documentation


# -- errors ----------------------------------------------------------------------------------------------------------


def _errors() -> Iterable[str]:
    yield (
        "## Error codes\n\n`error` in an error body. Codes are stable; texts are for people. The two columns are the "
        "HTTP status on the API listener (the API wrapper's mapping) and in Vast's envelope, whose SDK repeats 5xx and "
        "429 on another worker. `retryable`: the same request may succeed later or elsewhere."
    )
    rows = []
    for code in ErrorCode:
        error = error_class(code)
        bare = error.__new__(error)
        api, signed = status_of(bare, wrapper.STATUS), status_of(bare, vast.STATUS)
        rows.append((f"`{code.value}`", str(api), str(signed), "yes" if error.retryable else "", _sentence(error)))
    yield from _table(("code", "API", "Vast", "retryable", "meaning"), rows)
    yield HTTP_CODES


def error_class(code: ErrorCode) -> type[ServiceError]:
    """The one class of ``lib.errors`` that has this code of its own."""
    (found,) = (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ServiceError) and vars(kind).get("code") is code
    )
    return found


# -- routes ----------------------------------------------------------------------------------------------------------


def _routes() -> Iterable[str]:
    yield "## Routes\n\nPaths of one listener; any other is 404, a known path with another method 405."
    for name, place, routes in listeners():
        yield f"### {name}\n\n{place}"
        yield from _table(("method", "path", "what"), [(method, f"`{path}`", text) for method, path, text in routes])


def listeners() -> Iterable[tuple[str, str, Sequence[tuple[str, str, str]]]]:
    """Each listener: its name, where it is, its routes with a sentence each."""
    settings = Settings()
    probes = Probes(health=_never, ready=_never, metrics=_never)
    files = OutputFiles(jobs=_NOTHING, signer=_NOTHING, files_of=_never, roots=_never, clock=_NOTHING)
    native, vast_dialect = _native(files), _vast(settings)
    wrapper_dialect, runpod = object.__new__(WrapperDialect), object.__new__(RunPodDialect)
    salad = object.__new__(SaladDialect)
    dialects = {WRAPPER: wrapper_dialect, runpod.name: runpod, salad.name: salad}
    api = api_site(
        settings,
        dialects=tuple(dialects.values()),
        shared=SharedPaths(jobs=_NOTHING, dialects=dialects, primary=""),
        document=Document(),
        changing=None,
        native=native,
        probes=probes,
        upkeep=object.__new__(Upkeep),
        pass_="",
        access=Access(),
        on_error=_never,
        version="",
    )
    described = (
        *wrapper_docs.operations(),
        *runpod_docs.operations(),
        *salad.operations(),
        *native.operations(),
        *probes.operations(),
    )
    known = ROUTES | {operation.path: f"{operation.summary}." for operation in described}
    yield (
        "API listener",
        "`API_HOST:API_PORT`, `http://127.0.0.1:18288` by default. On loopback without credentials, beyond it with an "
        "API key; probes and the docs page are free.",
        _of(api, known),
    )
    public = public_site(settings, vast=vast_dialect, files=files, probes=probes, on_error=_never)
    where = (
        "`WORKER_HOST:WORKER_PORT`, 3000; TLS in serverless mode. Below `/relay/`, for who shows a ticket of a router"
        " of ours in `X-Pyworker-Ticket`, also the API listener's routes, without `/metrics`, `/internal/live` and the"
        " docs page."
    )
    yield "Public listener", where, _of(public, known | PUBLIC_ROUTES)
    plain = plain_site(settings, vast=vast_dialect)
    yield "Plain listener", "`WORKER_HOST:WORKER_HTTP_PORT`, `WORKER_PORT` + 1.", _of(plain, PUBLIC_ROUTES)


def _native(files: OutputFiles) -> NativeDialect:
    nobody: dict[str, Any] = {"jobs": _NOTHING, "outbox": _NOTHING, "clock": _NOTHING}
    return NativeDialect(names=_never, files=files, uploads=Inputs(save=_NOTHING), wake=_never, **nobody)


def _vast(settings: Settings) -> VastDialect:
    return VastDialect(
        jobs=_NOTHING,
        payload=_NOTHING,
        signatures=_NOTHING,
        signer=_NOTHING,
        sessions=_NOTHING,
        ledger=_NOTHING,
        fleet=settings.fleet,
        settings=settings.jobs,
        base_url="",
        longest_wait_s=1.0,
        max_body_bytes=1024,
    )


def _of(site: Site, known: Mapping[str, str]) -> Sequence[tuple[str, str, str]]:
    found = []
    for route in site.app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method != "HEAD":
            sentence = known.get(path) or known.get(path.removeprefix(RUNPOD))  # RunPod's paths are there twice
            if sentence is None:
                raise SystemExit(f"{__file__}: the route {route.method} {path} has no sentence")
            found.append((route.method, path, sentence))
    return found


_NOTHING: Any = None
"""Stands for what handlers would use."""


def _never(*_: object) -> Any:
    raise AssertionError("routes are listed, not called")


# -- text ------------------------------------------------------------------------------------------------------------


def _sentence(thing: type) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = " ".join((thing.__doc__ or "").split())
    first = re.split(r"(?<=\.)\s|(?<=\.)$", text, maxsplit=1)[0]
    return first.replace("``", "`")


def _text(sentence: str) -> str:
    return sentence.replace("<", "\\<")


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    if rows:
        lines = [columns, ["---"] * len(columns), *rows]
        yield "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
