"""What is said at the start of storages that can't be used."""

from contextlib import AsyncExitStack

import pytest

from lib.app.storages import open_storages
from lib.settings import load_settings
from lib.storage.guard import AddressGuard


async def test_a_bucket_without_its_keys_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Else jobs would go on without uploads, and nobody knew why."""
    async with AsyncExitStack() as stack:
        environment = {"S3_BUCKET_NAME": "b", "S3_ACCESS_KEY_ID": "k"}
        await open_storages(load_settings(environment), stack, guard=AddressGuard())
        assert caplog.messages == ["S3_SECRET_ACCESS_KEY not set: nothing is uploaded to your own bucket"]
        caplog.clear()
        await open_storages(load_settings(environment | {"S3_SECRET_ACCESS_KEY": "s"}), stack, guard=AddressGuard())
        assert not caplog.messages
