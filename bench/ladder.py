"""Tables and a drawing of the engine's ladder from the JSON of bench_engine and bench_vae, for docs/performance.md and the README.

    python -m bench.ladder bench/results/{engine,density,vae}-*.json [--svg docs/ladder.svg]

Prints Markdown. Nothing is measured here.
"""
import argparse
import json
import math
import sys
from html import escape
from pathlib import Path

WIDTH, BAR, GAP, LEFT, RIGHT = 860, 16, 5, 250, 120


def columns(results: list[dict]) -> list[dict]:
    """bench_engine's results as one for each preset and size: what a later file measured of it goes below the first one's rows."""
    found: dict[str, dict] = {}
    for result in results:
        first = found.setdefault(title(result), result)
        if first is not result:
            found[title(result)] = first | {"rows": first["rows"] + result["rows"]}
    return list(found.values())


def title(result: dict) -> str:
    model = result["preset"].split("-t2v-")[-1].split("-i2v-")[-1].split("-")[0].upper()
    return f"{model} {result['size']} {result['frames']} f"


def seconds(s: float) -> str:
    return f"{s:.3f}" if s < 1 else f"{s:.2f}" if s < 100 else f"{s:.0f}"


def ladder_table(results: list[dict]) -> str:
    """One row a rung, one column a work: seconds a clip, and milliseconds a step."""
    names = list(dict.fromkeys(row["name"] for result in results for row in rungs(result)))
    lines = ["| rung | " + " | ".join(title(result) for result in results) + " |", "| --- |" + " ---: |" * len(results)]
    for name in names:
        cells = []
        for result in results:
            row = next((row for row in rungs(result) if row["name"] == name), None)
            cells.append("" if row is None else f"{seconds(row['clip_s'])} s ({row['step_ms']:.1f} ms)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| limit, 4 steps | " + " | ".join(f"{seconds(4 * r['limit_ms']['all'] / 1000)} s ({r['limit_ms']['all']:.1f} ms)" for r in results) + " |")
    lines.append("| share of the limit | " + " | ".join(f"{as_run(r)['share_of_limit']:.0%}" for r in results) + " |")
    lines.append("| peak memory, GiB | " + " | ".join(f"{as_run(r)['peak_gib']:.1f}" for r in results) + " |")
    if any(r.get("witness") for r in results):
        lines.append("| diffusers, dense, eager, a pass | " + " | ".join(f"{r['witness']['step_ms']:.1f} ms" if r.get("witness") else "" for r in results) + " |")
    return "\n".join(lines)


def profile_table(result: dict) -> str:
    """Where one pass goes, by group, against its limit."""
    limit = result["limit_ms"]
    lines = [f"| {title(result)}, ms a pass | measured | limit |", "| --- | ---: | ---: |"]
    for group, ms in result["profile"]["groups"].items():
        lines.append(f"| {group} | {ms:.1f} | {limit[group]:.1f} |" if group in limit else f"| {group} | {ms:.1f} | |")
    return "\n".join(lines + [f"| all kernels | {sum(result['profile']['groups'].values()):.1f} | {limit['all']:.1f} |"])


def decoder_table(result: dict) -> str:
    """One row a way to decode, one column a length: milliseconds a clip and peak memory."""
    rows = [row for row in result["rows"] if "calls" in row]
    ways = list(dict.fromkeys((row["name"], row.get("chunk", 1)) for row in rows))
    lengths = list(dict.fromkeys((row["size"], row["frames"]) for row in rows))
    lines = ["| decoder | latent frames at once | " + " | ".join(f"{size} {frames} f" for size, frames in lengths) + " |",
             "| --- | ---: |" + " ---: |" * len(lengths)]
    for name, chunk in ways:
        cells = []
        for size, frames in lengths:
            row = next((r for r in rows if (r["name"], r.get("chunk", 1), r["size"], r["frames"]) == (name, chunk, size, frames)), None)
            cells.append("" if row is None else f"{row['median_ms']:.0f} ms" + (f" ({row['peak_gib']:.1f} GiB)" if "peak_gib" in row else ""))
        lines.append(f"| {name} | {chunk or 'all'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rungs(result: dict) -> list[dict]:
    return [row for row in result["rows"] if "clip_s" in row]


def as_run(result: dict) -> dict:
    """The rung that is what the engine runs."""
    return next(row for row in rungs(result) if row["name"].startswith("CUDA graph"))


def svg(results: list[dict]) -> str:
    """Seconds a clip as bars on a logarithmic scale, a group a work; the limit as a line."""
    span = [row["clip_s"] for result in results for row in rungs(result)] + [4 * r["limit_ms"]["all"] / 1000 for r in results]
    low, high = math.log10(min(span)) - 0.15, math.log10(max(span)) + 0.02

    def x(s: float) -> float:
        return LEFT + (math.log10(s) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts, y = [], 14
    for result in results:
        parts.append(f'<text x="0" y="{y + 6}" class="h">{escape(title(result))}, {escape(result["device"])}</text>')
        y += 18
        top = y
        for row in rungs(result):
            parts.append(f'<text x="{LEFT - 8}" y="{y + BAR - 4}" class="l">{escape(row["name"])}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{x(row["clip_s"]) - LEFT:.1f}" height="{BAR}" class="{"f" if row["steps"] > 8 else "b"}"/>')
            parts.append(f'<text x="{x(row["clip_s"]) + 5:.1f}" y="{y + BAR - 4}">{seconds(row["clip_s"])} s</text>')
            y += BAR + GAP
        at = x(4 * result["limit_ms"]["all"] / 1000)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 2}" y2="{y}"/>')
        y += 20
    style = ("text{font:12px system-ui,sans-serif;fill:#555}.h{font-weight:600}.l{text-anchor:end}.b{fill:#2f7d6b}.f{fill:#a9a196}"
             "line{stroke:#c0392b;stroke-dasharray:4 3}@media(prefers-color-scheme:dark){text{fill:#bbb}}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img"><title>Seconds a clip, by rung; the dashed line is the '
            f'limit of the card</title><style>{style}</style>' + "".join(parts) + "</svg>\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--svg", type=Path, help="write the drawing here")
    options = parser.parse_args()
    every = [json.loads(path.read_text()) for path in options.files]
    results = columns([result for result in every if result["bench"] == "engine"])
    if not results:
        return 0
    facts = results[0]
    print(f"{facts['device']}, torch {facts['torch']}, triton {facts['triton']}, commit {', '.join(dict.fromkeys(r['commit'] for r in results))}\n")
    print(ladder_table(results))
    for result in results:
        if result.get("profile"):
            print("\n" + profile_table(result))
    for result in every:
        if result["bench"] == "vae":
            print("\n" + decoder_table(result))
    if options.svg:
        options.svg.write_text(svg(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
