"""The worker that most integration tests share: serverless, attached to a real ComfyUI, with S3 and autoscaler."""

from tests.integration.fixtures import autoscaler_url, fleet_worker, gate  # noqa: F401 - registered by being imported
from tests.s3_fixture import nanio_server  # noqa: F401 - registered by being imported
