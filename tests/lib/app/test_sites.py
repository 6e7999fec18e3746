"""What the docs page says about the listeners that have no page."""

import re

from docs.build_reference import listeners
from lib.app.sites import DESCRIPTION


def named(text: str) -> set[tuple[str, str]]:
    """Method and path of each route that a text names; a path without a method has the one before it."""
    routes, method = set(), ""
    for said, path in re.findall(r"`(?:([A-Z]+) )?(/[^`]*)`", text):
        method = said or method
        routes.add((method, path))
    return routes


def test_the_page_names_the_routes_of_the_other_listeners() -> None:
    """All of them, and none that is not there."""
    public, plain = DESCRIPTION[DESCRIPTION.index("- ") :].split("\n\n", 1)
    _, *others = listeners()
    mounted = [{(method, path) for method, path, _ in routes} for _, _, routes in others]
    assert [named(public), named(plain)] == mounted
