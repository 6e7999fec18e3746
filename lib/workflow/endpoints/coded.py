"""Endpoints written in Python: a file with a pydantic model ``Request`` and ``generate_workflow(input)``.

The names that Salad's TypeScript files use, ``RequestSchema`` and ``generateWorkflow``, will do as well; ``summary``
and ``description`` are optional, the docstring stands in for them. The function may be a coroutine, and may take a
second argument, the ``Context``. Such a file is the operator's own code: it can do all that the worker can.
"""

import hashlib
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError

from lib.errors import InvalidRequest, ServiceError
from lib.workflow.authoring import Context
from lib.workflow.decoding import check
from lib.workflow.endpoints.endpoint import INPUT, Bound, as_object, refusal
from lib.workflow.endpoints.running import ForeignError, Runner, finish
from lib.workflow.endpoints.schemas import inlined, resolve
from lib.workflow.graph import check_graph
from lib.workflow.parameters import Options
from lib.workflow.template import Loc, TemplateError

log = logging.getLogger(__name__)
MODELS = ("Request", "RequestSchema")
FUNCTIONS = ("generate_workflow", "generateWorkflow")
Generate = Callable[..., Any]
MAX_WHOLE = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedEndpoint:
    """One such file, loaded. ``limit_s`` is how long it may take for one input."""

    name: str
    summary: str
    description: str
    model: type[BaseModel]
    generate: Generate
    takes_context: bool
    described: Mapping[str, Any]
    runner: Runner
    limit_s: float

    def schema(self, options: Options) -> dict[str, Any]:
        return cast(dict[str, Any], resolve(self.described, options))

    async def bind(self, values: object, *, options: Options, loc: Loc = INPUT) -> Bound:
        work = partial(self._bind, as_object(values, loc), options, loc)
        try:
            return await self.runner.run(work, limit_s=self.limit_s, name=self.name)
        except ForeignError as error:
            log.warning(
                "a workflow file failed", extra={"event": "workflow.failed", "workflow": self.name}, exc_info=error
            )
            raise _failed(_text(error), loc) from error
        except TimeoutError as error:
            raise _failed(f"it took longer than {self.limit_s:g} s", loc) from error

    def _bind(self, values: Mapping[str, Any], options: Options, loc: Loc) -> Bound:
        checked = self._check(values, options, loc)
        shown = checked.model_dump(mode="json", by_alias=True)
        context = (Context(options),) if self.takes_context else ()
        graph = _graph(finish(self.generate(checked, *context), limit_s=self.limit_s), loc)
        check_graph(graph)
        return Bound(values=shown, graph=graph)

    def _check(self, values: Mapping[str, Any], options: Options, loc: Loc) -> BaseModel:
        """JSON types are taken to the letter, unless the model says otherwise."""
        strict = None if "strict" in self.model.model_config else True
        try:
            data = orjson.dumps(_whole(values))
            return self.model.model_validate_json(data, strict=strict, context={"options": options})
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise refusal(((*loc, *item["loc"]), item["msg"].removeprefix("Value error, ")) for item in found) from None


def load_code(path: Path, *, name: str, runner: Runner, limit_s: float) -> CodedEndpoint:
    """Run a file as a module of its own and take what it offers. Blocks, for as long as the file's own code does.

    Raises: TemplateError with what is missing; whatever the file itself raises."""
    module = _import(path)
    try:
        model, generate = _model(module), _function(module)
        described = inlined(model.model_json_schema(by_alias=True))
        summary, description = _texts(module)
        return CodedEndpoint(
            name=name,
            summary=summary,
            description=description,
            model=model,
            generate=generate,
            takes_context=_takes_context(generate),
            described=described,
            runner=runner,
            limit_s=limit_s,
        )
    except TemplateError:
        forget_code(path)
        raise


def forget_code(path: Path) -> None:
    """Drop the module of a file that is gone or no longer right."""
    sys.modules.pop(_module_name(path), None)


def fault_of(path: Path, error: ForeignError) -> str:
    """Say what a file raised when it was run, and on which of its lines."""
    cause = error.__cause__
    if isinstance(cause, SyntaxError) and cause.filename == str(path):
        return f"line {cause.lineno}: {type(cause).__name__}: {cause.msg}"
    frames = traceback.extract_tb(cause.__traceback__ if cause is not None else None)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"line {lines[-1]}: {error}" if lines else str(error)


def _module_name(path: Path) -> str:
    return f"workflow_file_{hashlib.blake2b(bytes(path), digest_size=8).hexdigest()}"


def _import(path: Path) -> ModuleType:
    """Run the source itself: nothing is looked up on the module path, no bytecode is written beside it."""
    module = ModuleType(_module_name(path))
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    with ExitStack() as undo:
        undo.callback(forget_code, path)
        sys.modules[module.__name__] = module  # where pydantic looks up the names of annotations
        exec(code, module.__dict__)  # noqa: S102 - the operator's own code
        undo.pop_all()
    return module


def _one_of(module: ModuleType, names: tuple[str, ...], expected: str) -> Any:
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if not found:
        raise TemplateError(f"has no {' or '.join(names)}; expected {expected}")
    first, *others = found.values()
    if any(other is not first for other in others):
        raise TemplateError(f"has {' and '.join(found)}; keep one")
    return first


def _model(module: ModuleType) -> type[BaseModel]:
    expected = f"a pydantic model named {MODELS[0]}"
    model = _one_of(module, MODELS, expected)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TemplateError(f"{MODELS[0]} is not a class of pydantic's; expected {expected}")
    return model


def _function(module: ModuleType) -> Generate:
    expected = f"a function {FUNCTIONS[0]}(input) that returns the graph"
    function = _one_of(module, FUNCTIONS, expected)
    if not callable(function):
        raise TemplateError(f"{FUNCTIONS[0]} is not a function; expected {expected}")
    return cast(Generate, function)


def _takes_context(function: Generate) -> bool:
    signature = inspect.signature(function)
    for count in (1, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise TemplateError(f"{FUNCTIONS[0]}{signature}: expected one argument, input, or two, input and context")


def _texts(module: ModuleType) -> tuple[str, str]:
    summary, description = getattr(module, "summary", None), getattr(module, "description", None)
    for name, text in (("summary", summary), ("description", description)):
        if not isinstance(text, str | None):
            raise TemplateError(f"{name} is not a text; expected a string")
    head, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return (head.strip() if summary is None else summary), (rest.strip() if description is None else description)


def _whole(value: Any) -> Any:
    """8.0 is 8 in JSON, and in what other languages make of it."""
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) < MAX_WHOLE:
            return int(value)
        case _:
            return value


def _graph(result: Any, loc: Loc) -> dict[str, Any]:
    """Return the graph as JSON, cut off from objects that the file keeps."""
    if not isinstance(result, dict):
        raise _failed(f"{FUNCTIONS[0]} returned {type(result).__name__}, expected a dict of nodes", loc)
    try:
        return cast(dict[str, Any], check(json.dumps(result, allow_nan=False).encode()))
    except (TypeError, ValueError, InvalidRequest) as error:
        problem = error.message if isinstance(error, ServiceError) else str(error)
        raise _failed(f"{FUNCTIONS[0]} returned a graph that is not JSON: {problem}", loc) from error


def _text(error: ForeignError) -> str:
    cause = error.__cause__
    return str(cause) if isinstance(cause, ValueError) and str(cause) else str(error)


def _failed(problem: str, loc: Loc) -> InvalidRequest:
    return refusal([(loc, f"Failed to generate workflow prompt: {problem}")], kind=FUNCTIONS[0])
