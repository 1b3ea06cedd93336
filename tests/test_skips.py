"""With TUNEOFF_NO_SKIPS=1 a skipped test fails the suite."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.conftest import pytest_sessionfinish


@pytest.mark.parametrize(("asked", "skipped", "status"), [("1", 1, 1), ("1", 0, 0), ("0", 1, 0)])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_skip_fails_the_suite_where_that_is_asked(monkeypatch, asked, skipped, status, earlier):
    monkeypatch.setenv("TUNEOFF_NO_SKIPS", asked)
    reports = [SimpleNamespace(nodeid="tests/test_x.py::test_y", longrepr=("x.py", 1, "Skipped: no chromium"))]
    said: list[str] = []
    reporter = SimpleNamespace(stats={"skipped": reports * skipped}, write_line=said.append)
    plugins = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get)
    session = SimpleNamespace(config=SimpleNamespace(pluginmanager=plugins), exitstatus=pytest.ExitCode(earlier))
    pytest_sessionfinish(session)
    assert session.exitstatus == (earlier or status)
    assert len(said) == (status if not earlier else 0)
