"""The table of docs/performance.md from one machine in one go, a process a row, so that no row can say another card's number.

    python -m bench.table --out DIR [--limit SECONDS] [--only EXPRESSION] [--call NAME]

Writes one JSON a row, each with the same `call`. A row that fails or runs out of time is named at the end; the exit code is 1 then.
Where a machine gives less time at once than all rows take, --call goes on with a call on that same machine.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

SMALL, LARGE, LARGEST = (f"wan2.1-t2v-{name}" for name in ("1.3b-480p", "14b-480p", "14b-720p"))
ENGINE = "bench_engine --random-weights --preset"
ROWS = {
    "engine-1.3b-480p-33f": f"{ENGINE} {SMALL} --frames 33 --budget 2 --check",
    "engine-1.3b-480p-81f": f"{ENGINE} {SMALL} --frames 81 --budget 2",
    "engine-14b-480p-33f": f"{ENGINE} {LARGE} --frames 33 --budget 2 --only ^SLA|fused|graph|0.15",
    "wan-1.3b-480p-33f": f"bench_wan --preset {SMALL} --frames 33 --repeat 10",
    "vae-480p": "bench_vae --frames 33 81 --brief",
    "engine-14b-480p-81f": f"{ENGINE} {LARGE} --frames 81 --budget 2 --only graph|0.15 --alone",
    "engine-14b-720p-81f": f"{ENGINE} {LARGEST} --frames 81 --budget 2 --only graph|0.15 --alone",
}
"""By the name of its file: what is run. The long ones last."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds that all of it may take")
    parser.add_argument("--only", default="", help="rows whose name matches this expression")
    parser.add_argument("--call", default=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), help="what `call` says in each JSON (default: the time)")
    options = parser.parse_args()
    rows = {name: row for name, row in ROWS.items() if re.search(options.only, name)}
    if not rows:
        parser.error(f"--only: expected an expression that matches one of {', '.join(ROWS)}, got {options.only!r}")
    options.out.mkdir(parents=True, exist_ok=True)
    start, failed = time.monotonic(), []
    call = {**os.environ, "BENCH_CALL": options.call}
    for name, row in rows.items():
        left = options.limit - (time.monotonic() - start)
        module, *rest = row.split()
        command = [sys.executable, "-m", f"bench.{module}", *rest, "--out", str(options.out / f"{name}.json")]
        print(f"== {name}: {' '.join(command[1:])}", flush=True)
        try:
            if subprocess.run(command, env=call, timeout=max(left, 0.1)).returncode:
                failed.append(name)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} (out of time)")
        print(f"== {time.monotonic() - start:.0f} s", flush=True)
    print("failed: " + ", ".join(failed) if failed else "all rows measured")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
