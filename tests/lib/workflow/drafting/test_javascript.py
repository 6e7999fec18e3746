"""Expressions of JavaScript, read without running any."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.workflow.drafting.javascript import Array, Call, Const, Expression, Name, Object, Raw, Reader, Template
from lib.workflow.drafting.zod import source


def read(text: str) -> Expression:
    return Reader(text).expression_at(0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Const(1)),
        ("-1.5e3", Const(-1500.0)),
        ("0xff", Const(255)),
        ("1_000", Const(1000)),
        ("true", Const(True)),
        ("null", Const(None)),
        (r"""'it\'s \u00e9 \x41 \n'""", Const("it's é A \n")),
        (r'"\ud83d\ude00"', Const("😀")),
        ('"a // no comment"', Const("a // no comment")),
        ("`plain`", Const("plain")),
        ("`a ${input.b} c`", Template((Const("a "), Name(("input", "b")), Const(" c")))),
        ("config.models.loras.enum", Name(("config", "models", "loras", "enum"))),
        ("[1, 'a', [],]", Array((Const(1), Const("a"), Array(())))),
        (
            "{a: 1, 'b c': x, d, /* e: 2, */ 3: [] // end\n}",
            Object((("a", Const(1)), ("b c", Name(("x",))), ("d", Name(("d",))), ("3", Array(())))),
        ),
        ("f(1)", Call(None, "f", (Const(1),))),
        ("z.number().min(2)", Call(Call(Name(("z",)), "number", ()), "min", (Const(2),))),
        ("({} as Foo<Bar[]>)", Raw("({} as Foo<Bar[]>)", 1)),
        ("{a: 1} as Foo<Bar>", Object((("a", Const(1)),))),
        ("[x as string, 2]", Array((Name(("x",)), Const(2)))),
    ],
)
def test_what_is_understood(text: str, expected: Expression) -> None:
    """Literals, names, calls; comments and types say nothing."""
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a ?? 5",
        "a ? b : c",
        "a + b",
        "a[0]",
        "!a",
        "() => 1",
        "x => x",
        "(x, y) => { return 1; }",
        "function () { return 1 }",
        "new Date()",
        "async () => 1",
        "typeof x",
        "`a ${ {b: 1}.b }`",
        "...rest",
        "a.b?.[0]",
    ],
)
def test_the_rest_is_left_as_it_stands(text: str) -> None:
    """In a list, the elements beside it are understood all the same."""
    assert read(f"[1, {text}, 2]") == Array((Const(1), Raw(text, 1), Const(2)))


def test_lines_are_those_of_the_source() -> None:
    """So that what is left to do can be found."""
    found = read("{\n  a: 1,\n  b: a + 1,\n}")
    assert isinstance(found, Object)
    assert found.items[1] == ("b", Raw("a + 1", 3))


def test_a_statement_may_end_without_a_semicolon() -> None:
    """At the end of its line."""
    assert read("z.string()\nconst b = 1") == Call(Name(("z",)), "string", ())


@given(st.text(alphabet="ab1 .,;:'\"`(){}[]=>?!$\\/\n-+z", max_size=40))
def test_no_source_breaks_the_reader(text: str) -> None:
    """Whatever it is, it ends, and can be written again for people."""
    assert isinstance(source(read(text)), str)


@given(
    st.recursive(
        st.integers(-99, 99) | st.text("ab\"'\\", max_size=4) | st.booleans() | st.none(), st.lists, max_leaves=8
    )
)
def test_json_is_understood_wholly(value: object) -> None:
    """A graph's literal is JSON, or nearly so."""

    def constant(found: Expression) -> object:
        return [constant(item) for item in found.items] if isinstance(found, Array) else found.value  # type: ignore[union-attr]

    assert constant(read(json.dumps(value))) == value
