"""Git checkouts of programs that the operator names: ComfyUI itself, node packs. Never asks for a password."""

import os
import re
import subprocess
from pathlib import Path

from provisioning.errors import ProvisioningError
from provisioning.steps import run_command

TIMEOUT_S = 900.0
# Folders of other owners are meant here; a transfer that stands still ends.
OPTIONS = ("-c", "safe.directory=*", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30")
FULL_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def git_environment() -> dict[str, str]:
    """Give the environment in which git fails instead of asking."""
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "0"}


def checkout(folder: Path, *, url: str, ref: str | None, failure: str, remedy: str) -> str:
    """Have ``folder`` at a branch, tag or commit of ``url`` (its default branch when None); give the commit.

    What the folder holds beside git's own files stays. Raises ProvisioningError with ``failure`` and ``remedy``.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def git(*arguments: str) -> None:
        run_command(
            ["git", "-C", folder, *OPTIONS, "-c", "advice.detachedHead=false", *arguments],
            failure=failure,
            remedy=remedy,
            env=git_environment(),
            timeout_s=TIMEOUT_S,
        )

    git("init", "--quiet")
    try:
        git("fetch", "--progress", "--depth", "1", "--end-of-options", url, ref or "HEAD")
        found = "FETCH_HEAD"
    except ProvisioningError:
        if ref is None or not re.fullmatch(r"[0-9a-f]{4,64}", ref):
            raise
        found = ref  # a commit that is abbreviated, or that the host gives only with its branch
        git("fetch", "--progress", "--tags", "--end-of-options", url, "+refs/heads/*:refs/remotes/origin/*")
    git("checkout", "--force", "--quiet", "--detach", found)
    if (folder / ".gitmodules").is_file():
        git("submodule", "update", "--init", "--recursive", "--depth", "1")
    if origin(folder) is None:
        git("remote", "add", "origin", url)
    commit = head(folder)
    if commit is None:
        raise ProvisioningError(failure, remedy=remedy)
    return commit


def head(folder: Path) -> str | None:
    """Give the commit that is checked out; None where ``folder`` is no checkout of its own."""
    return _ask(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None


def origin(folder: Path) -> str | None:
    """Give the URL that a checkout came from."""
    return _ask(folder, "config", "--get", "remote.origin.url")


def has_local_changes(folder: Path) -> bool:
    """Tell whether files that git knows were changed: a checkout of another version would lose that."""
    return bool(_ask(folder, "status", "--porcelain", "--untracked-files=no"))


def same_repository(one: str, other: str) -> bool:
    """Compare two spellings of a repository's URL: user names, ``.git`` and letter case do not matter."""
    return _plain(one) == _plain(other)


def _plain(url: str) -> str:
    text = re.sub(r"^[a-z+]+://([^/@]*@)?", "", url.strip().lower())
    text = re.sub(r"^[^/@:]+@([^/:]+):", r"\1/", text)
    return text.rstrip("/").removesuffix(".git")


def _ask(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", folder, *OPTIONS, *arguments], capture_output=True, env=git_environment(), check=False, timeout=60
    )
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
