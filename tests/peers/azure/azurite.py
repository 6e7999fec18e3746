"""Azurite on loopback: it checks keys, signatures and their ends. ``azurite_server`` is imported by the ``conftest`` of
folders that use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from tests.peers.environment import peer_node
from tests.s3_fixture import free_ports, running

HERE = Path(__file__).parent
NAME = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Both are the published ones of every Azurite."""
CONTAINER = "outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureServer:
    """A running Azurite, with the container ``outputs``, which nobody may read without a key."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{NAME}"

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={NAME};AccountKey={KEY};BlobEndpoint={self.endpoint};"

    def client(self) -> BlobServiceClient:
        """A plain client, to look at what arrived."""
        return BlobServiceClient(self.endpoint, credential={"account_name": NAME, "account_key": KEY})


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Skips without Node.js or a package registry."""
    program = peer_node("azure", HERE / "package.json") / "node_modules" / ".bin" / "azurite-blob"
    folder = tmp_path_factory.mktemp("azurite")
    (port,) = free_ports(1)
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
    with running(command, port=port, log=folder / "log"):
        server = AzureServer(port=port)
        with server.client() as client:
            client.create_container(CONTAINER)
        yield server
