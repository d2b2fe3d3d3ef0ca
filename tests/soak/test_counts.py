"""The full counts of what `make test` draws a few of: the same code, more often."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_ending import check_end, stand_in
from test_media_gate import mutate
from test_storm import storm
from test_store import bad_header, fill_up, filled, garbage_page, kill_recoveries, kill_saves, truncated, wrong_schema  # noqa: F401
from test_worker import kill_under_load

ROOT = Path(__file__).resolve().parents[2]


def test_kills_in_the_middle_of_a_save(tmp_path, row):
    saves = kill_saves(tmp_path, 200)
    row("kill -9 at a random instant of a save", 200, f"0 clips listed that are not whole; {saves} steps were under way")


def test_disks_that_fill_up(tmp_path, row):
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        fill_up(folder, "tmpfs", 200 + 80 * number)
    row("file systems of 200 KiB to 1.7 MiB filled to the last byte", 20, "told each time, nothing half listed, all before it kept")


def test_kills_while_it_recovers(filled, tmp_path, row):  # noqa: F811
    for number, damage in enumerate((bad_header, truncated, garbage_page, wrong_schema)):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_recoveries(filled, folder, (damage,) * 10)
    row("kill -9 while a damaged history is made anew, 4 kinds of damage", 40, "all 120 clips listed again each time")


def test_edits(row):
    begun, took = storm(10_000, 10.0)
    row("edits in 10 s", 10_000, f"1 waiting at most, shown ones only got newer, the last one shown {took:.2f} s after it; {begun:,} begun")


def test_killed_engines(row):
    longest = kill_under_load(100)
    row("engines killed under load by 4 signals", 100, f"ready again in {longest:.1f} s at most, none left behind, no job lost but by two kills")


def test_ends(tmp_path, row):
    for number in range(20):
        process = stand_in(tmp_path / str(number))
        process.read_until("token for code")
        check_end(process, (signal.SIGTERM, signal.SIGINT)[number % 2])
    row("SIGTERM and SIGINT", 20, "exit code 0, nothing said, nothing left")


@pytest.mark.parametrize("seed", range(2))
def test_mutants_of_our_files(tmp_path, row, seed):
    read, slowest = mutate(tmp_path, seed, 5000)
    row("mutants of exported files, seed " + str(seed), 5000, f"0 crashes, slowest {1000 * slowest:.0f} ms, {read:,} read all the same")


@pytest.mark.parametrize("what, count, tests", [
    ("mutated headers of checkpoints, and flips in their data", "5,000 and 600", ["tests/weights/test_fuzz.py"]),
    ("pickles with a sentinel, wrong roles, other sizes", "all", ["tests/weights/test_convert.py", "tests/weights/test_refusals.py"]),
])
def test_checkpoints(row, what, count, tests):
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env={**os.environ, "FUZZ": "10"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    row(what, count, done.stdout.strip().splitlines()[-1].strip("= "))


def test_shaken_messages(row):
    from tests.browser.test_order import soak
    changes = soak(5000)
    row("seeds of delayed, doubled, reordered and dropped messages to the page", 5000, f"0 older clips shown in {changes:,} changes of the picture")
