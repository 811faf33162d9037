"""What the tests of all applications use."""

from pathlib import Path

import pytest

from tests.apps.app_contract import run_app


@pytest.fixture
def refused(app, tmp_path, monkeypatch):
    """Checks that a command is refused.

    It ends with status 2 and one sentence, which has all of the given parts, and leaves
    the folder as it was.
    """
    monkeypatch.chdir(tmp_path)

    def check(*arguments, says):
        before = set(Path().rglob("*"))
        result = run_app(app.name, *arguments)
        assert result.status == 2, result.err
        *_, last = result.err.strip().splitlines()
        assert last.startswith("error: ")
        for part in says:
            assert part in last
        assert "Traceback" not in result.err
        assert set(Path().rglob("*")) == before

    return check
