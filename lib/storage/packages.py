"""Which storages' clients are installed: those of Azure and Hugging Face are extras."""

from importlib.util import find_spec

AZURE = ("azure.storage.blob", "requirements-azure.txt")
AZURE_IDENTITY = ("azure.identity", "requirements-azure.txt")
HUGGING_FACE = ("huggingface_hub", "requirements-hf.txt")


def absence(package: tuple[str, str]) -> str | None:
    """Say what to install for a package that is not there; ``None``: it is. Blocking; the package is not loaded."""
    name, file = package
    try:
        found = find_spec(name)
    except ModuleNotFoundError:  # no parent package either
        found = None
    return None if found else f"the package {name} is not installed; pip install -r {file} on the worker"
