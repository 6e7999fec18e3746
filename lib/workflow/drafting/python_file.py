"""A JavaScript or TypeScript workflow file as the draft of a Python one; what is not understood is marked as such."""

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.workflow.drafting.javascript import Array, Call, Const, Expression, Name, Object, Raw, Reader, Template
from lib.workflow.drafting.zod import Field, fields_of, is_first, source

HEAD = '''\
"""{summary}

Drafted from {file}. {state}
"""

{imports}

summary = {summary_text}
description = {description_text}


class Request(BaseModel):
'''
TODO_FUNCTION = '''\
def todo(what: str) -> Any:
    """Stand for what was not translated: requests fail with this text until it is replaced."""
    raise NotImplementedError(f"not translated yet: {what}")


'''
DONE = "All of it was understood; compare it with the original once."
OPEN = "What was not understood is marked TODO: {count} places."
MARKER = "TODO"
_TAKEN_APART = re.compile(r"(?:const|let) \{ [\w$ ,]* \} = input(?: ;)?")
IMPORTS = {
    "typing": ("Annotated", "Any", "Literal"),
    "pydantic": ("BaseModel", "Field"),
    "lib.workflow.authoring": ("Context", "OneOf", "Seed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonDraft:
    """The file's text, and what is left to do by hand; empty when all was understood."""

    text: str
    todo: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Parts:
    schema: Expression | None = None
    graph: Expression | None = None
    known: dict[str, Expression] = field(default_factory=dict)
    summary: str = ""
    description: str = ""
    todo: list[str] = field(default_factory=list)


def draft_python(script: str, *, file: str) -> PythonDraft:
    """Return the Python file for a workflow file's source."""
    parts = _read(Reader(script))
    fields = fields_of(parts.schema, parts.known) if parts.schema is not None else []
    if not fields:
        parts.todo.append("the fields of RequestSchema: no z.object({...}) of that name was found")
    usable = [item for item in fields if item.name.isidentifier() and not keyword.iskeyword(item.name)]
    parts.todo += [f"field {item.name}: not a Python name" for item in fields if item not in usable]
    parts.todo += [f"field {item.name}: {text}" for item in usable for text in item.todo]
    body = _body(parts, {item.name: item for item in usable})
    state = OPEN.format(count=len(parts.todo)) if parts.todo else DONE
    lines = [line for item in usable for line in _field(item)] or ["    pass"]
    rest = "\n".join(lines) + "\n\n\n" + (TODO_FUNCTION if "todo(" in body else "") + body
    head = HEAD.format(
        imports=_imports(rest),
        summary=(parts.summary or file).replace("\\", "").replace('"', "'"),
        file=file,
        state=state,
        summary_text=_text(parts.summary),
        description_text=_text(parts.description),
    )
    return PythonDraft(text=head + rest, todo=tuple(parts.todo))


def _imports(text: str) -> str:
    """Import what the text uses."""
    lines = []
    for module, names in IMPORTS.items():
        used = [name for name in names if name == "BaseModel" or re.search(rf"\b{name}\b", text)]
        lines += [f"from {module} import {', '.join(used)}"] if used else []
    return "\n\n".join(lines)


def _read(reader: Reader) -> _Parts:
    parts = _Parts()
    texts = [token.text for token in reader.tokens]
    for index, text in enumerate(texts):
        following = texts[index + 1] if index + 1 < len(texts) else ""
        if text in ("const", "let", "var") and following.isidentifier():
            if (start := _value_start(texts, index + 2)) is not None:
                parts.known.setdefault(following, reader.expression_at(start))
        elif text in parts.known and following == "=" and texts[index - 1] not in ("const", "let", "var"):
            again = reader.expression_at(index + 2)
            if isinstance(again, Call) and again.on == Name((text,)) and all(map(is_first, again.arguments)):
                parts.known[text] = Call(parts.known[text], again.method, again.arguments)
                continue
            parts.todo.append(f"line {reader.line(reader.tokens[index])}: {text} is set once more")
        elif text in ("summary", "description") and following == ":":
            value = reader.expression_at(index + 2)
            if isinstance(value, Const) and isinstance(value.value, str):
                setattr(parts, text, value.value)
        elif text == "RequestSchema" and following == ":" and texts[index + 2 : index + 3] == ["z"]:
            parts.schema = reader.expression_at(index + 2)
    parts.schema = parts.schema or parts.known.get("RequestSchema")
    _read_function(reader, texts, parts)
    return parts


def _value_start(texts: list[str], index: int) -> int | None:
    """Find what a constant is set to, behind the type that may stand before it."""
    for place in range(index, min(index + 40, len(texts))):
        if texts[place] == "=":
            return place + 1
        if texts[place] in (";", "const", "let", "var"):
            return None
    return None


def _read_function(reader: Reader, texts: list[str], parts: _Parts) -> None:
    """Take the object that ``generateWorkflow`` returns, and say so if it does anything before."""
    names = [index for index, text in enumerate(texts) if text == "generateWorkflow"]
    for begin in names:
        for place in range(begin, len(texts) - 1):
            if place > begin and texts[place] in ("export", "class"):
                break
            if texts[place] == "return" or texts[place : place + 2] == ["=>", "("]:
                start = place + 1 if texts[place] == "return" else place + 2
                parts.graph = reader.expression_at(start)
                _note_statements(reader, begin, place, parts)
                return
    parts.todo.append("generate_workflow: no function generateWorkflow that returns an object was found")


def _note_statements(reader: Reader, begin: int, end: int, parts: _Parts) -> None:
    """Say what is done before the graph is returned, but for taking the input apart."""
    texts = [token.text for token in reader.tokens]
    opened: list[int] = []
    for place in range(begin, end):
        if texts[place] == "{":
            opened.append(place)
        elif texts[place] == "}" and opened:
            opened.pop()
    statements = " ".join(texts[opened[0] + 1 : end]) if opened else ""
    if statements and texts[end] == "return" and not _TAKEN_APART.fullmatch(statements):
        first, last = reader.line(reader.tokens[opened[0] + 1]), reader.line(reader.tokens[end])
        parts.todo.append(f"generate_workflow: what lines {first} to {last} do before the graph is returned")


def _field(item: Field) -> list[str]:
    lines = [f"    # {MARKER} {' '.join(text.split())}" for text in item.todo]
    arguments = [f"{key}={_text(value)}" for key, value in item.arguments.items()]
    kind = item.type
    if item.random and kind == "int":
        kind = f"Annotated[Seed, Field({', '.join(arguments)})]" if arguments else "Seed"
        return [*lines, f"    {item.name}: {kind}"]
    if item.random:
        lines.append(f"    # {MARKER} its random default")
    if item.optional and not item.has_default:
        kind, item.has_default = f"{kind} | None", True
    if item.has_default:
        arguments.insert(0, _text(item.default))
    return [*lines, f"    {item.name}: {kind}" + (f" = Field({', '.join(arguments)})" if arguments else "")]


def _body(parts: _Parts, fields: Mapping[str, Field]) -> str:
    graph = 'todo("the graph")'
    if parts.graph is not None:
        graph = _Writer(fields=fields, known=parts.known, todo=parts.todo).write(parts.graph, 1)
    context = ", context: Context" if "context.first(" in graph else ""
    head = f"def generate_workflow(input: Request{context}) -> dict[str, Any]:"
    return "\n".join([head, '    """Return the graph for one input."""', f"    return {graph}", ""])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    fields: Mapping[str, Field]
    known: Mapping[str, Expression]
    todo: list[str]

    def write(self, expression: Expression, depth: int) -> str:
        match expression:
            case Const(value):
                return _text(value)
            case Name(parts) if self._is_field(expression):
                return self._value(self.fields[parts[-1]])
            case Name((name,)) if name in self.known and depth < 20:
                return self.write(self.known[name], depth + 1)
            case Array(items):
                return f"[{', '.join(self.write(item, depth) for item in items)}]"
            case Object(items):
                return self._object(items, depth)
            case Template(texts) if all(isinstance(part, Const) or self._is_plain(part) for part in texts):
                return 'f"' + "".join(self._piece(part, depth) for part in texts) + '"'
        text = source(expression)
        where = f"line {expression.line}: " if isinstance(expression, Raw) else ""
        self.todo.append(f"graph: {where}{text}")
        return f"todo({_text(text)})"

    def _value(self, item: Field) -> str:
        if not item.first or item.listed is None:
            return f"input.{item.name}"
        return f"input.{item.name} or context.first({', '.join(map(_text, item.listed))})"

    def _is_plain(self, expression: Expression) -> bool:
        """Whether it is a field whose value is all there is to write."""
        return self._is_field(expression) and "(" not in self.write(expression, 0)

    def _is_field(self, expression: Expression) -> bool:
        match expression:
            case Name(("input", name)):
                return name in self.fields
            case Name((name,)):
                return name in self.fields and name not in self.known
            case _:
                return False

    def _piece(self, part: Expression, depth: int) -> str:
        if isinstance(part, Const):
            return _text(str(part.value))[1:-1].replace("{", "{{").replace("}", "}}")
        return f"{{{self.write(part, depth)}}}"

    def _object(self, items: tuple[tuple[str, Expression], ...], depth: int) -> str:
        if not items:
            return "{}"
        indent = "    " * (depth + 1)
        lines = [f"{indent}{_text(key)}: {self.write(value, depth + 1)}," for key, value in items]
        return "\n".join(["{", *lines, "    " * depth + "}"])


def _text(value: object) -> str:
    """Write a constant as Python does, text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
