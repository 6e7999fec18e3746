"""Reads the expressions that JavaScript workflow files are made of: literals, names, calls; the rest stays text.

No JavaScript is run. What this small grammar does not know becomes ``Raw``, the source as it stands, so that whoever
translates it can say what is left to do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<template>`(?:[^`\\]|\\.)*`)
      | (?P<number>0[xX][0-9a-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
      | (?P<name>[\w$]+)
      | (?P<sign>=>|\.\.\.|\?\.|\?\?|[=!]==?|&&|\|\||[<>]=|.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None, "undefined": None}
_OPEN, _CLOSE = "([{", ")]}"
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Const:
    """A literal; ``undefined`` is ``None``."""

    value: object


@dataclass(frozen=True, slots=True)
class Name:
    """``config.models.loras`` as its parts."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """``on.method(arguments)``; ``on`` is ``None`` for a bare name."""

    on: "Expression | None"
    method: str
    arguments: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Array:
    """``[...]``."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Object:
    """``{...}``, its keys as text."""

    items: tuple[tuple[str, "Expression"], ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """Source that is not understood, with the line where it stands."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Template:
    """A text with values in it; texts are ``Const``."""

    parts: tuple["Expression", ...]


Expression = Const | Name | Call | Array | Object | Template | Raw


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a source, and where it begins."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class _NotUnderstood(Exception):
    pass


def tokens_of(source: str) -> list[Token]:
    """Split a source into tokens, without blanks and comments."""
    found = (Token(str(match.lastgroup), match.group(), match.start()) for match in _TOKEN.finditer(source))
    return [token for token in found if token.kind != "space"]


class Reader:
    """A source and a place in its tokens."""

    def __init__(self, source: str, tokens: list[Token] | None = None) -> None:
        self.source = source
        self.tokens = tokens_of(source) if tokens is None else tokens
        self._at = 0
        self._depth = 0

    def expression_at(self, index: int) -> Expression:
        """Read the expression that begins with the token ``index``."""
        self._at = index
        return self._expression()

    def rest(self) -> int:
        """How many tokens follow what was read."""
        return len(self.tokens) - self._at

    def line(self, token: Token) -> int:
        return self.source.count("\n", 0, token.start) + 1

    def _peek(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self.tokens[place].text if place < len(self.tokens) else ""

    def _expression(self) -> Expression:
        begin = self._at
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise _NotUnderstood
            found = self._with_suffixes(self._primary())
            if self._peek() not in ("", ",", ";", *_CLOSE) and not self._new_statement():
                raise _NotUnderstood
        except _NotUnderstood:
            self._at = begin
            return self._raw()
        finally:
            self._depth -= 1
        return found

    def _new_statement(self) -> bool:
        """A semicolon may be left out at the end of a line."""
        if self._at >= len(self.tokens) or self._at == 0:
            return False
        between = self.source[self.tokens[self._at - 1].end : self.tokens[self._at].start]
        return "\n" in between and self.tokens[self._at].kind == "name"

    def _raw(self) -> Raw:
        """Everything up to the comma or bracket that ends this expression."""
        begin, depth = self._at, 0
        while (text := self._peek()) and not (depth == 0 and (text in ",;" or text in _CLOSE)):
            depth += (text in _OPEN) - (text in _CLOSE)
            self._at += 1
        if begin >= len(self.tokens):
            return Raw("", self.source.count("\n") + 1)
        end = self.tokens[self._at - 1].end if self._at > begin else self.tokens[begin].start
        return Raw(self.source[self.tokens[begin].start : end], self.line(self.tokens[begin]))

    def _primary(self) -> Expression:
        if self._at >= len(self.tokens):
            raise _NotUnderstood
        token = self.tokens[self._at]
        self._at += 1
        match token.kind, token.text:
            case "string", text:
                return Const(unescaped(text[1:-1]))
            case "template", text if "${" not in text:
                return Const(unescaped(text[1:-1]))
            case "template", text:
                return _template(text[1:-1])
            case "number", text:
                return Const(number(text))
            case "sign", "-" if self._at < len(self.tokens) and self.tokens[self._at].kind == "number":
                self._at += 1
                return Const(-number(self.tokens[self._at - 1].text))
            case "name", text if text in _CONSTANTS:
                return Const(_CONSTANTS[text])
            case "name", text if self._peek() != "=>" and text not in ("function", "async", "await", "new", "typeof"):
                return Name((text,))
            case "sign", "[":
                return Array(tuple(self._listed("]")))
            case "sign", "{":
                return Object(tuple(self._entries()))
        raise _NotUnderstood

    def _with_suffixes(self, found: Expression) -> Expression:
        while True:
            match self._peek():
                case "." | "?." if self._at + 1 < len(self.tokens) and self.tokens[self._at + 1].kind == "name":
                    found = self._member(found, self._peek(1))
                case "(" if isinstance(found, Name) and len(found.parts) == 1:
                    self._at += 1
                    found = Call(None, found.parts[0], tuple(self._listed(")")))
                case "as" | "satisfies":
                    self._skip_type()
                case _:
                    return found

    def _member(self, on: Expression, name: str) -> Expression:
        self._at += 2
        if self._peek() == "(":
            self._at += 1
            return Call(on, name, tuple(self._listed(")")))
        if isinstance(on, Name):
            return Name((*on.parts, name))
        return Call(on, name, ())

    def _skip_type(self) -> None:
        """``as Something<...>`` says nothing that Python would need."""
        self._at += 1
        depth = 0
        while (text := self._peek()) and not (depth == 0 and (text in ",;" or text in _CLOSE or self._new_statement())):
            depth += (text in "([{<") - (text in ")]}>")
            self._at += 1

    def _listed(self, end: str) -> Iterator[Expression]:
        while self._peek() != end:
            if not self._peek():
                raise _NotUnderstood
            yield self._expression()
            self._comma(end)
        self._at += 1

    def _entries(self) -> Iterator[tuple[str, Expression]]:
        while self._peek() != "}":
            if self._at >= len(self.tokens):
                raise _NotUnderstood
            key = self.tokens[self._at]
            self._at += 1
            if key.kind not in ("name", "string", "number"):
                raise _NotUnderstood
            name = unescaped(key.text[1:-1]) if key.kind == "string" else key.text
            if self._peek() == ":":
                self._at += 1
                yield name, self._expression()
            elif self._peek() in (",", "}") and key.kind == "name":
                yield name, Name((name,))
            else:
                raise _NotUnderstood
            self._comma("}")
        self._at += 1

    def _comma(self, end: str) -> None:
        if self._peek() == ",":
            self._at += 1
        elif self._peek() != end:
            raise _NotUnderstood


def _template(text: str) -> Template:
    """Read ``${...}`` as expressions; braces inside of them are not understood."""
    parts: list[Expression] = []
    for index, piece in enumerate(re.split(r"\$\{([^{}]*)\}", text)):
        if index % 2 == 0:
            parts += [Const(unescaped(piece))] if piece else []
            continue
        reader = Reader(piece)
        parts.append(reader.expression_at(0))
        if reader.rest():
            raise _NotUnderstood
    if any(isinstance(part, Const) and "${" in str(part.value) for part in parts):
        raise _NotUnderstood
    return Template(tuple(parts))


def unescaped(text: str) -> str:
    """Return what a JavaScript string literal says."""

    def replaced(match: "re.Match[str]") -> str:
        if digits := match[1] or match[2] or match[3]:
            return chr(min(int(digits, 16), 0x10FFFF))
        return _ESCAPES.get(match[4], match[4])

    return _ESCAPE.sub(replaced, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def number(text: str) -> int | float:
    """Return the value of a JavaScript number."""
    plain = text.replace("_", "")
    if plain[:2].lower() == "0x":
        return int(plain, 16)
    return int(plain) if plain.isdigit() else float(plain)
