"""comfyui-api's ``test/utils.spec.ts`` (workflow objects, files of the workflow folder, git URLs) and
``test/llm-providers.spec.ts``. Its JavaScript files are Python's and JSON's here; its model that writes them is
``python -m lib.workflow draft``, which asks nobody: tests/lib/workflow/drafting. Names of node packs, GitLab's
subgroups, dots and hyphens: tests/provisioning/nodes/test_source.py."""

from pathlib import Path

import pytest

from lib.workflow.endpoints.folder import WorkflowFolder
from provisioning.nodes.source import parse_source

REQUEST = "from pydantic import BaseModel\nclass Request(BaseModel):\n    a: int = 1\n"
GENERATE = "def generate_workflow(request):\n    return {}\n"


async def mounted(root: Path) -> WorkflowFolder:
    folder = WorkflowFolder(root, check_interval_s=0)
    await folder.refresh()
    return folder


@pytest.mark.parametrize(
    ("code", "is_one"),
    [
        (REQUEST + GENERATE, True),
        (REQUEST.replace("Request(", "RequestSchema(") + GENERATE, True),
        ("", False),
        ("None", False),
        ("[]", False),
        (REQUEST, False),
        (GENERATE, False),
        (f"Request = 5\n{GENERATE}", False),
        (f"{REQUEST}generate_workflow = 5\n", False),
    ],
)
async def test_is_workflow(tmp_path: Path, code: str, is_one: bool) -> None:
    """Both members, and what they must be; anything else is named as a problem."""
    (tmp_path / "one.py").write_text(code)
    folder = await mounted(tmp_path)
    assert list(folder.endpoints) == (["one"] if is_one else [])
    assert bool(folder.problems) is not is_one


async def test_only_workflow_files_count(tmp_path: Path) -> None:
    """Others are passed over; JavaScript and TypeScript are named, for they were endpoints."""
    for name in ("a.py", "b.md", "c.txt", "d.js", "e.ts", "f.py.bak"):
        (tmp_path / name).write_text(REQUEST + GENERATE)
    folder = await mounted(tmp_path)
    assert list(folder.endpoints) == ["a"]
    assert {problem.file for problem in folder.problems} == {"d.js", "e.ts"}


@pytest.mark.parametrize("name", ["txt2img", "nested/deep/txt2img", "my-workflow", "with_under", "a-b/c-d"])
async def test_names(tmp_path: Path, name: str) -> None:
    """Folders are segments; hyphens stay."""
    path = tmp_path / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(REQUEST + GENERATE)
    assert list((await mounted(tmp_path)).endpoints) == [name]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://github.com/u/r", "https://github.com/u/r", None),
        ("https://github.com/u/r.git", "https://github.com/u/r.git", None),
        ("https://github.com/u/r/tree/main", "https://github.com/u/r", "main"),
        ("https://github.com/u/r/commit/abc1234", "https://github.com/u/r", "abc1234"),
        ("https://github.com/u/r/releases/tag/v1.0.0", "https://github.com/u/r", "v1.0.0"),
        ("https://github.com/u/r.git@main", "https://github.com/u/r.git", "main"),
        ("https://gitlab.com/g/s/r/-/tree/develop", "https://gitlab.com/g/s/r", "develop"),
        ("https://gitlab.com/u/r/-/commit/abc1234", "https://gitlab.com/u/r", "abc1234"),
        ("https://bitbucket.org/u/r/src/develop/some/path", "https://bitbucket.org/u/r", "develop"),
        ("https://bitbucket.org/u/r/commits/abc1234", "https://bitbucket.org/u/r", "abc1234"),
        ("https://github.com/my-org/my.repo-1/tree/v1.2.3", "https://github.com/my-org/my.repo-1", "v1.2.3"),
        ("https://github.com/u/r/tree/feature/new", "https://github.com/u/r", "feature/new"),
        ("https://github.com/u/r/", "https://github.com/u/r", None),
        ("https://github.com/u/r/tree/main/", "https://github.com/u/r", "main"),
        (f"https://github.com/u/r/commit/{COMMIT}", "https://github.com/u/r", COMMIT),
        ("https://github.com/u/r/releases/tag/v1.2.3-beta.1", "https://github.com/u/r", "v1.2.3-beta.1"),
        ("https://github.com/u/r@main", "https://github.com/u/r", "main"),
        (f"https://github.com/u/r@{COMMIT}", "https://github.com/u/r", COMMIT),
        ("https://github.com/my-org/my.repo_2.git", "https://github.com/my-org/my.repo_2.git", None),
        ("https://gitlab.com/u/r", "https://gitlab.com/u/r", None),
        ("https://gitlab.com/g/s/r.git", "https://gitlab.com/g/s/r.git", None),
        ("https://gitlab.com/g/s/t/r", "https://gitlab.com/g/s/t/r", None),
        (f"https://gitlab.com/g/s/r/-/commit/{COMMIT}", "https://gitlab.com/g/s/r", COMMIT),
        ("https://gitlab.com/u/r/-/tree/feature-1.x", "https://gitlab.com/u/r", "feature-1.x"),
        ("https://gitlab.com/g/s/r.git@v2.0", "https://gitlab.com/g/s/r.git", "v2.0"),
        ("https://bitbucket.org/u/r", "https://bitbucket.org/u/r", None),
        ("https://bitbucket.org/u/r.git", "https://bitbucket.org/u/r.git", None),
        ("https://bitbucket.org/u/r/src/main", "https://bitbucket.org/u/r", "main"),
        ("https://bitbucket.org/u/r/src/v1.0.0/", "https://bitbucket.org/u/r", "v1.0.0"),
        ("https://git.example.com/u/r", "https://git.example.com/u/r", None),
        ("https://git.example.com/u/r.git@feature-x", "https://git.example.com/u/r.git", "feature-x"),
    ],
)
def test_git_urls(text: str, url: str, ref: str | None) -> None:
    """A repository and its version; those of Appendix B among them. A branch may have a slash, which upstream cuts."""
    source = parse_source(text)
    assert (source.url, source.ref) == (url, ref)
