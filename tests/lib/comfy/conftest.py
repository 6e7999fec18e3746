"""For every test of ``lib.comfy``."""

import pytest
import stamina


@pytest.fixture(autouse=True, scope="session")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())
