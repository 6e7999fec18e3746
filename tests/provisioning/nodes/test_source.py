"""How packs are named: what people paste from a browser, a README or ComfyUI-Manager."""

import pytest

from provisioning.nodes.source import PackSource, parse_source


@pytest.mark.parametrize(
    ("text", "name", "url", "ref"),
    [
        ("https://github.com/owner/Pack", "Pack", "https://github.com/owner/Pack", None),
        ("https://github.com/owner/Pack.git", "Pack", "https://github.com/owner/Pack.git", None),
        ("https://github.com/owner/Pack/", "Pack", "https://github.com/owner/Pack", None),
        ("https://github.com/owner/Pack/tree/dev/next", "Pack", "https://github.com/owner/Pack", "dev/next"),
        ("https://github.com/owner/Pack/commit/0a1b2c3", "Pack", "https://github.com/owner/Pack", "0a1b2c3"),
        ("https://github.com/owner/Pack/releases/tag/v1.0", "Pack", "https://github.com/owner/Pack", "v1.0"),
        ("https://gitlab.example/g/sub/Pack/-/tree/main", "Pack", "https://gitlab.example/g/sub/Pack", "main"),
        ("https://gitlab.com/g/a/b/Pack/-/commit/0a1b2c3", "Pack", "https://gitlab.com/g/a/b/Pack", "0a1b2c3"),
        ("https://bitbucket.org/u/Pack/src/develop/some/path", "Pack", "https://bitbucket.org/u/Pack", "develop"),
        ("https://bitbucket.org/u/Pack/src/v1.0", "Pack", "https://bitbucket.org/u/Pack", "v1.0"),
        ("https://bitbucket.org/u/Pack/src/main/", "Pack", "https://bitbucket.org/u/Pack", "main"),
        ("https://bitbucket.org/u/Pack/commits/0a1b2c3", "Pack", "https://bitbucket.org/u/Pack", "0a1b2c3"),
        ("https://bitbucket.org/u/Pack.git@develop", "Pack", "https://bitbucket.org/u/Pack.git", "develop"),
        ("https://bitbucket.org/u/Pack", "Pack", "https://bitbucket.org/u/Pack", None),
        ("https://git.example/u/src/Pack", "Pack", "https://git.example/u/src/Pack", None),
        (
            "https://github.com/my-org.x/Pack-1.0_b/tree/rel-2.0",
            "Pack-1.0_b",
            "https://github.com/my-org.x/Pack-1.0_b",
            "rel-2.0",
        ),
        ("https://github.com/owner/Pack@v1.2", "Pack", "https://github.com/owner/Pack", "v1.2"),
        ("https://github.com/owner/Pack.git@feature/x", "Pack", "https://github.com/owner/Pack.git", "feature/x"),
        ("https://me:key@github.com/owner/Pack", "Pack", "https://me:key@github.com/owner/Pack", None),
        ("https://github.com/owner/Pack?tab=readme#top", "Pack", "https://github.com/owner/Pack", None),
        ("git+https://github.com/owner/Pack@main", "Pack", "https://github.com/owner/Pack", "main"),
        ("git@github.com:owner/Pack.git@v2", "Pack", "git@github.com:owner/Pack.git", "v2"),
        ("ssh://git@github.com/owner/Pack", "Pack", "ssh://git@github.com/owner/Pack", None),
        ("file:///srv/packs/Pack", "Pack", "file:///srv/packs/Pack", None),
        ("comfyui-impact-pack", "comfyui-impact-pack", None, None),
        ("comfyui-impact-pack@8.1.0", "comfyui-impact-pack", None, "8.1.0"),
    ],
)
def test_names_that_people_paste(text: str, name: str, url: str | None, ref: str | None) -> None:
    assert parse_source(text) == PackSource(name=name, url=url, ref=ref)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-x",
        "owner/pack",
        "https://github.com/",
        "https://h/o/p@-x",
        "p@../x",
        "https://h/o/..",
        "ext::sh -c",
    ],
)
def test_what_is_neither_url_nor_name_is_refused(text: str) -> None:
    """Nothing that git could take for an option, or for a program to run, gets through."""
    with pytest.raises(ValueError, match=r"expected|names no|no branch"):
        parse_source(text)


def test_the_entry_s_own_ref_wins() -> None:
    assert parse_source("https://github.com/o/p@v1", ref="v2").ref == "v2"
