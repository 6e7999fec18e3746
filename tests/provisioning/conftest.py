"""Fixtures of the provisioning tests."""

from collections.abc import Iterator

import pytest

from tests.provisioning.servers import FileServer, serve


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as running:
        yield running
