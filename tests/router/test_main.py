"""``python -m router``: what its command line takes."""

import pytest

from router.__main__ import main


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--port=8080", 2)])
def test_the_command_line_sets_nothing(
    argument: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks for help, or takes it for a program with flags, is told where the settings are; nothing starts."""
    monkeypatch.setattr("sys.argv", ["router", argument])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    said = capsys.readouterr()
    assert "usage: python -m router" in said.out + said.err
