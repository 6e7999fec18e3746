"""lib.app: what a worker does not need at its start is not imported then."""

import subprocess
import sys

RARE = ("azure", "boto3", "botocore", "huggingface_hub", "nltk", "opentelemetry", "pyvips", "runpod", "yaml")
CODE = f"""
import sys, lib.app
from lib.dialects.salad.answers import SaladResult
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({RARE!r})))
print("lib.workflow.endpoints.coded" in sys.modules, SaladResult.__pydantic_complete__)
"""


def test_a_worker_imports_what_each_one_needs() -> None:
    """Memory: libraries of single storages and formats come with their first use, and so do validators of requests."""
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[:2] == ["[]", "False False"]
