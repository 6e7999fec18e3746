"""S3 servers for this folder."""

from tests.s3_fixture import nanio_server, swift_server

__all__ = ["nanio_server", "swift_server"]
