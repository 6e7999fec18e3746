"""huggingface_hub, as we use it. Blocking, for threads only; importing it costs half a second, so ``hugging_face.py``
does it late."""

from collections.abc import Sequence

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from lib.errors import StorageFailed
from lib.storage.blobs import Blob
from lib.storage.hugging_face import HubAccount, HubRepo

MESSAGE = "Add outputs"
CONFLICTS = frozenset({409, 412})
"""Somebody else's commit came in between."""
_MEANINGS = {401: "the token is not accepted", 403: "the token may not write there", 404: "there is no such repository"}


class HubClient:
    """One account's client; thread-safe."""

    def __init__(self, account: HubAccount) -> None:
        disable_progress_bars()
        # Without a token of ours none: not the one of whoever is logged in on this machine.
        self._api = HfApi(endpoint=account.endpoint, token=account.token or False, library_name="comfyui-pyworker")

    def commit(self, repo: HubRepo, blobs: Sequence[Blob]) -> None:
        """Upload the files, streamed from disk, and commit them together. Raises: StorageFailed."""
        gone = next((blob for blob in blobs if not blob.path.is_file()), None)
        if gone is not None:  # to the client it would be a name that is not valid
            raise _failed("LocalFile", f"{gone.path.name} is not there")
        try:
            adds = [CommitOperationAdd(path_in_repo=blob.key, path_or_fileobj=blob.path) for blob in blobs]
            self._api.create_commit(
                repo.name, adds, commit_message=MESSAGE, repo_type=repo.kind, revision=repo.revision
            )
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            raise _explained(error) from error
        if any(getattr(add, "_should_ignore", False) for add in adds):
            raise _failed("Ignored", "the .gitignore of the repository excludes the files")


def _explained(error: Exception) -> StorageFailed:
    """The hub's status, or ours for what never reached it; its texts quote URLs."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of one of several files
        error = error.__cause__
    response = getattr(error, "response", None)
    if isinstance(error, HfHubHTTPError) and response is not None:
        status = int(response.status_code)
        passing = status >= 500 or status in (408, 425, 429) or status in CONFLICTS
        return _failed(f"Status{status}", _MEANINGS.get(status, f"status {status}"), passing=passing)
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return _failed("LocalFile", f"the file can't be read: {error.strerror}")
    if isinstance(error, ValueError):
        return _failed("Invalid", "the repository's name or the file's is not valid there")
    return _failed("ConnectionFailed", f"no connection, or it broke off ({type(error).__name__})", passing=True)


def _failed(reason: str, text: str, *, passing: bool = False) -> StorageFailed:
    failed = StorageFailed(f"Hugging Face upload failed: {reason}: {text}", details={"reason": reason})
    failed.retryable = passing
    return failed
