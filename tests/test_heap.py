"""Freed memory goes back to the system."""
import platform
import subprocess
import sys

import pytest

SCRIPT = """
from turbo_engine.heap import give_back
from turbo_engine.stats import resident_bytes
blocks = [bytearray(100_000) for _ in range(3_000)]
kept = blocks[::100]
del blocks
before = resident_bytes()
give_back()
print((before - resident_bytes()) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_lies_between_blocks_in_use_goes_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200, "of 283 MiB freed"
