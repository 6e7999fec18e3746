"""A worker with a real ComfyUI, S3 and an autoscaler for the examples."""

from tests.integration.fixtures import autoscaler_url, fleet_worker  # noqa: F401 - registered by being imported
from tests.s3_fixture import nanio_server  # noqa: F401 - registered by being imported
