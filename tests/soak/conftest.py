"""The long counts: `make soak`, or `python -m pytest tests/soak --minutes N`. Without --minutes they are skipped, so that no other run has them.

What they find is written to --report as a table: docs/reliability.md quotes it.
"""

import time
from pathlib import Path

import pytest

from bench.machine import facts

_rows: list[tuple[str, str, str, float]] = []


def pytest_addoption(parser):
    parser.addoption("--minutes", type=float, help="how long five tabs work; the other counts do not hang on it")
    parser.addoption("--report", type=Path, default=Path("bench/results/soak.md"), help="where the table goes")


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.soak)
            item.add_marker(pytest.mark.timeout(7200))
            if config.getoption("--minutes", default=None) is None:
                item.add_marker(pytest.mark.skip(reason="make soak"))


@pytest.fixture
def minutes(request) -> float:
    return request.config.getoption("--minutes")


@pytest.fixture
def row(request):
    """row(what, count, found): a line of the table, told with how long the test took so far."""
    start = time.monotonic()

    def add(what: str, count: str | int, found: str) -> None:
        _rows.append((what, f"{count:,}" if isinstance(count, int) else count, found, time.monotonic() - start))
    return add


def pytest_sessionfinish(session):
    if not _rows:
        return
    machine = facts()
    lines = [f"{machine['machine']}, Python {machine['python']}, torch {machine['torch']}, commit {machine['commit']}", "",
             "| what | count | found | took |", "| --- | --- | --- | --- |",
             *(f"| {what} | {count} | {found} | {took:.0f} s |" for what, count, found, took in _rows)]
    if session.testsfailed:
        lines += ["", f"{session.testsfailed} of these tests failed: what they count stands in no row."]
    path = session.config.getoption("--report", default=Path("soak.md"))
    path.write_text("\n".join(lines) + "\n")
    print("\n\n" + "\n".join(lines))
