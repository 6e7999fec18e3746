"""Fields of a zod schema as fields of a pydantic model, and what of them could not be told."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.workflow.drafting.javascript import Array, Call, Const, Expression, Name, Object, Raw, Template

SAMPLING: Mapping[tuple[str, ...], tuple[str, str]] = {
    ("config", "samplers"): ("KSampler", "sampler_name"),
    ("config", "schedulers"): ("KSampler", "scheduler"),
}
MODELS: Mapping[str, tuple[str, str]] = {
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "loras": ("LoraLoader", "lora_name"),
    "vae": ("VAELoader", "vae_name"),
    "controlnet": ("ControlNetLoader", "control_net_name"),
    "diffusion_models": ("UNETLoader", "unet_name"),
    "unet": ("UNETLoader", "unet_name"),
    "clip": ("CLIPLoader", "clip_name"),
    "text_encoders": ("CLIPLoader", "clip_name"),
    "clip_vision": ("CLIPVisionLoader", "clip_name"),
    "style_models": ("StyleModelLoader", "style_model_name"),
    "upscale_models": ("UpscaleModelLoader", "model_name"),
}
"""Lists of ``config.models``, by the node input of ComfyUI's core that offers the same."""
_TYPES = {"string": "str", "boolean": "bool", "any": "Any", "unknown": "Any"}
_BOUNDS = {"gt": "gt", "gte": "ge", "min": "ge", "lt": "lt", "lte": "le", "max": "le", "multipleOf": "multiple_of"}
_BOUNDS |= {"step": "multiple_of"}
_LENGTHS = {"min": "min_length", "max": "max_length"}
_SIGNS = {"positive": ("gt", 0), "nonnegative": ("ge", 0), "negative": ("lt", 0), "nonpositive": ("le", 0)}
_LISTED = re.compile(r"config\.models\.(\w+)\.all\.includes\(")
_WARM = "config.warmupCkpt"
_FIRST = re.compile(rf"(?:{_WARM}(?:\|\||\?\?))?config\.models\.\w+\.all\[0\]|{_WARM}")
"""Defaults of comfyui-api's examples: what it was warmed up with, or what is installed first."""
FIRST = "The first one that is installed when not given."
_SILENT = frozenset({"finite", "safe", "trim", "strict", "passthrough", "strip", "coerce"})


@dataclass(slots=True, kw_only=True)
class Field:
    """One field: a Python type, the arguments of pydantic's ``Field``, and what is left to do by hand. ``listed``:
    class and input whose choices it takes; ``first``: the first of them is its default."""

    name: str
    type: str = "Any"
    arguments: dict[str, object] = field(default_factory=dict)
    optional: bool = False
    random: bool = False
    has_default: bool = False
    default: object = None
    listed: tuple[str, str] | None = None
    first: bool = False
    todo: list[str] = field(default_factory=list)


def fields_of(schema: Expression, known: Mapping[str, Expression]) -> list[Field]:
    """Return the fields of ``z.object({...})``. ``known``: what the file's constants are."""
    while isinstance(schema, Call) and not (schema.on == Name(("z",)) and schema.method == "object"):
        if schema.on is None:
            return []
        schema = schema.on
    if not isinstance(schema, Call) or not schema.arguments or not isinstance(schema.arguments[0], Object):
        return []
    found = []
    for name, expression in schema.arguments[0].items:
        item = Field(name=name)
        _read(item, expression, known, 0)
        found.append(item)
    return found


def _read(item: Field, expression: Expression, known: Mapping[str, Expression], depth: int) -> None:
    match expression:
        case Name(parts) if parts in SAMPLING:
            _list(item, SAMPLING[parts])
        case Name(("config", "models", kind, "enum")) if kind in MODELS:
            _list(item, MODELS[kind])
        case Name((name,)) if name in known and depth < 8:
            _read(item, known[name], known, depth + 1)
        case Call(Name(("z",)), method, arguments):
            _start(item, method, arguments, known, depth)
        case Call(on, method, arguments) if on is not None:
            _read(item, on, known, depth)
            _modify(item, method, arguments)
        case Raw(text, line):
            item.todo.append(f"line {line}: {text}")
        case _:
            item.todo.append(f"its schema: {source(expression)}")


def _start(
    item: Field, method: str, arguments: tuple[Expression, ...], known: Mapping[str, Expression], depth: int
) -> None:
    match method, arguments:
        case "number", _:
            item.type = "float"
        case name, _ if name in _TYPES:
            item.type = _TYPES[name]
        case "enum", (Array(items),) if all(isinstance(choice, Const) for choice in items):
            item.type = f"Literal[{', '.join(repr(choice.value) for choice in items if isinstance(choice, Const))}]"
        case "literal", (Const(value),):
            item.type = f"Literal[{value!r}]"
        case "array", (inner,):
            element = Field(name=item.name)
            _read(element, inner, known, depth + 1)
            item.type, item.todo = f"list[{element.type}]", element.todo
        case _:
            item.todo.append(f"its type: z.{method}({', '.join(map(source, arguments))})")


def _modify(item: Field, method: str, arguments: tuple[Expression, ...]) -> None:
    numeric = item.type in ("int", "float")
    match method, arguments:
        case "int", _:
            item.type = "int"
        case "describe", (Const(text),):
            item.arguments["description"] = text
        case (("optional" | "nullable" | "nullish"), _):
            item.optional = True
        case "default", (value,) if is_constant(value):
            item.has_default, item.default = True, constant(value)
        case "default", (Raw(text, _),) if "Math.random" in text:
            item.random = True
        case "default", (value,) if item.listed and is_first(value):
            item.first = item.optional = True
            item.arguments.setdefault("description", FIRST)
        case "refine", (Raw(text, _), *_) if (kind := _listed_kind(text)) and item.type == "str":
            _list(item, MODELS[kind])
        case name, _ if numeric and name in _SIGNS:
            key, value = _SIGNS[name]
            item.arguments[key] = value
        case name, (Const(value), *_) if numeric and name in _BOUNDS:
            item.arguments[_BOUNDS[name]] = value
        case name, (Const(value), *_) if not numeric and name in _LENGTHS:
            item.arguments[_LENGTHS[name]] = value
        case name, _ if name in _SILENT:
            pass
        case _:
            item.todo.append(f".{method}({', '.join(map(source, arguments))})")


def _list(item: Field, place: tuple[str, str]) -> None:
    item.listed, item.type = place, f'Annotated[str, OneOf("{place[0]}", "{place[1]}")]'


def _listed_kind(text: str) -> str | None:
    """The kind of models among which a refinement looks a value up, and does nothing else."""
    found = _LISTED.search(plain := "".join(text.split()))
    whole = re.compile(r"\(?(\w+)(?::\w+)?\)?=>" + _LISTED.pattern + r"\1\)")
    return found[1] if found and found[1] in MODELS and whole.fullmatch(plain) else None


def is_first(value: Expression) -> bool:
    """Whether a default is what comfyui-api was warmed up with, or what is installed first."""
    return _FIRST.fullmatch("".join(source(value).split())) is not None


def is_constant(expression: Expression) -> bool:
    """Whether an expression says its value."""
    match expression:
        case Array(items):
            return all(map(is_constant, items))
        case Object(items):
            return all(is_constant(value) for _, value in items)
        case _:
            return isinstance(expression, Const)


def constant(expression: Expression) -> object:
    """Return the value of a constant expression."""
    match expression:
        case Const(value):
            return value
        case Array(items):
            return [constant(item) for item in items]
        case Object(items):
            return {key: constant(value) for key, value in items}
        case _:
            raise ValueError(f"{source(expression)} is no constant")


def source(expression: Expression) -> str:
    """Write an expression for people."""
    match expression:
        case Const(value):
            return repr(value)
        case Name(parts):
            return ".".join(parts)
        case Raw(text, _):
            return " ".join(text.split())
        case Call(on, method, arguments):
            return f"{source(on) + '.' if on is not None else ''}{method}({', '.join(map(source, arguments))})"
        case Array(items):
            return f"[{', '.join(map(source, items))}]"
        case Object(items):
            return f"{{{', '.join(f'{key}: {source(value)}' for key, value in items)}}}"
        case Template(parts):
            inner = (str(part.value) if isinstance(part, Const) else f"${{{source(part)}}}" for part in parts)
            return f"`{''.join(inner)}`"
