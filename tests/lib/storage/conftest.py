"""S3 servers for this folder."""

import pytest
import stamina

from tests.s3_fixture import nanio_server, swift_server

__all__ = ["nanio_server", "swift_server"]


@pytest.fixture(autouse=True, scope="session")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())
