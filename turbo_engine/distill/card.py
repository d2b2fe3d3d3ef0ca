"""The tables of the model card and of docs/performance.md from what `report` wrote.

    python -m turbo_engine.distill.card bench/results/pocket-report-*.json --times bench/results/pocket-times-*.json --into docs/model-card.md docs/performance.md

A document holds each between `<!-- report: NAME -->` and `<!-- /report -->`; all else in it stays. Several files are the parts of one report, made in several
calls; --out keeps them as one.
"""
import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from turbo_engine.distill.probe import HEADS
from turbo_engine.safe_write import write_whole

SAME = ("bench", "commit", "device", "torch", "prompts", "draws", "held_out", "guidance_scale")      # in all parts of one report
TURBO, FULL = "student-4 fixed-noise", "teacher-50"
_PLACE = re.compile(r"(<!-- report: (\w+) -->\n).*?\n(<!-- /report -->)", re.DOTALL)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Markdown. words: how many of the first columns are words, the others numbers."""
    lines = [heads, ["---" if column < words else "---:" for column in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def blocks(report: dict, elsewhere: Sequence[dict] = ()) -> dict[str, str]:
    """Markdown by name, of what a report has. elsewhere: reports of other machines, for their times of `techniques`."""
    made = {name: make(report) for name, make in _BLOCKS.items() if name in report}
    if "techniques" in report:
        made["techniques"] = _techniques(report, elsewhere)
    return {"made": _made(report)} | made


def filled(document: str, made: dict[str, str]) -> str:
    """A document with the blocks in their places. Raises: ValueError, a place for a block that is not known."""
    known = {"made", "techniques", *_BLOCKS}

    def block(place: re.Match) -> str:
        if place[2] not in known:
            raise ValueError(f"<!-- report: {place[2]} -->: expected one of {', '.join(sorted(known))}")
        return f"{place[1]}\n{made[place[2]]}\n\n{place[3]}" if place[2] in made else place[0]

    return _PLACE.sub(block, document)


def merged(parts: Sequence[dict]) -> dict:
    """One report of its parts, a later one's instead of an earlier one's. Raises: ValueError, parts of two reports."""
    for part in parts[1:]:
        if differ := [key for key in SAME if part.get(key) != parts[0].get(key)]:
            raise ValueError(f"parts of one report: expected one {differ[0]}, found {parts[0].get(differ[0])!r} and {part.get(differ[0])!r}")
    whole: dict = {}
    for part in parts:
        whole |= part
    return whole | {"seconds": round(sum(part["seconds"] for part in parts), 1)}


def card_name(device: str) -> str:
    """"NVIDIA H100 80GB HBM3" -> "H100"."""
    found = re.search(r"\b[A-Z]+\d+\w*", device)
    return found[0] if found else device


def _made(report: dict) -> str:
    return (f"{report['device']}, {report['machine']}, torch {report['torch']}, commit {report['commit'][:12]}: {report['prompts']} fixed prompts, "
            f"the last {report['held_out']} of held-out triples, {report['draws']} seed{'s' * (report['draws'] != 1)} each.")


def _spoken(name: str, report: dict) -> str:
    """"student-4 ode" -> "student, 4 steps, ode"."""
    role, steps, sampler = re.fullmatch(r"(teacher|student)-(\d+) ?(.*)", name).groups()
    said = f"{role}, {steps} step{'s' * (steps != '1')}"
    if role == "teacher":
        return f"{said}, guidance {report['guidance_scale']:g}"
    return said + f", {sampler}" * (steps == "4") + " (default)" * (name == TURBO)


def _right(found: dict) -> list[str]:
    return [f"{found[head]:.3f}" for head in HEADS]


def _probe(report: dict) -> str:
    seen, held_out = (min(report["probe_on_rendered"][name].values()) for name in ("seen_triples", "held_out_triples"))
    return f"On 600 fresh rendered clips the probe has each of the four right in {seen:.1%} or more, on 600 of held-out triples in {held_out:.1%} or more."


def _accuracy(report: dict) -> str:
    def unseen(row: dict) -> str:
        return f"{row['held_out']['subject']:.3f}, {row['held_out']['motion']:.3f}" if "held_out" in row else ""

    rows = [[_spoken(name, report), *_right(row["all"]), unseen(row), f"{1000 * row['sharpness']:.3f}", f"{1000 * row['flicker']:.2f}" if "flicker" in row else ""]
            for name, row in report["accuracy"].items()]
    teacher, student = report["accuracy"][FULL], report["accuracy"][TURBO]
    ratios = [f"{key} {student[key] / teacher[key]:.3f}" for key in ("sharpness", "flicker") if key in teacher]
    return table(["clips by", *HEADS, "held out: subject, motion", "sharpness x 1000", "flicker x 1000"], rows) + (
        f"\n\nThe student's clips as a share of the teacher's: {', '.join(ratios)}.")


def _variety(report: dict) -> str:
    teacher, student = report["variety"][FULL], report["variety"][TURBO]
    return f"Variance over 16 seeds of a prompt: teacher {teacher:.3f}, student {student:.3f} ({student / teacher:.2f} of it)."


def _turbo_to_full(report: dict) -> str:
    found = report["turbo_to_full"]
    order = [name for name in ("fixed-noise", "ode", "sde") if name in found] + [name for name in found if "step" in name]
    return table(["turbo (4 steps, unless said) to full (50 steps) of the same seed, 100 seeds", "SSIM mean", "median", "nine in ten reach"],
                 [[name.replace("1 steps", "1 step"), *(f"{found[name][key]:.3f}" for key in ("ssim_mean", "ssim_median", "ssim_tenth"))] for name in order])


def _worded(report: dict) -> str:
    rows = [[kind, str(found["prompts"]), found["example"], *(f"{found[head]:.2f}" if head in found else "the seed's" for head in HEADS)]
            for kind, found in report["worded"].items()]
    return table(["prompts", "how many", "example", *HEADS], rows, words=3)


def _larger(report: dict) -> str:
    rows = [[f"{size}{f', part {part + 1}' * (len(found) > 1)}", *_right(right)] for size, found in report["larger"].items() for part, right in enumerate(found)]
    return table(["frames x height x width", *HEADS], rows)


def _rendered(report: dict) -> str:
    rows = [["autoencoder alone" if name == "autoencoder" else _spoken(name, report), *(f"{found[area]:.1f}" for area in ("inside", "rim", "beside", "elsewhere")),
             f"{found['rim_sharpness']:.2f}"] for name, found in report["rendered"].items()]
    return table(["clips by", "inside", "rim", "beside", "elsewhere", "rim's energy"], rows)


def _vae(report: dict) -> str:
    found = report["vae"]
    scenes = sorted(found["psnr_by_scene_db"].items(), key=lambda pair: -pair[1])
    return (f"Autoencoder on {found['clips']} held-out clips: PSNR {found['psnr_db']:.1f} dB whole, {found['psnr_subject_db']:.1f} dB under the subject's mask.\n"
            f"By scene: {', '.join(f'{name} {db:.1f}' for name, db in scenes)}."
            + (f"\nIt draws {found['finest']:.2f} of what there is of the finest pattern, every other pixel." if "finest" in found else ""))


def _techniques(report: dict, elsewhere: Sequence[dict]) -> str:
    named = {FULL: "full, 50 steps, guidance", TURBO: "rCM: student, 4 steps"}
    machines = [*elsewhere, report]
    heads = ["on", *(f"probe: {head}" for head in HEADS), "PSNR, dB", "SSIM", "nine in ten reach", "worst frame's", "feature distance",
             *(made["machine"] if made["device"] == "cpu" else card_name(made["device"]) for made in machines)]
    rows = []
    for name, row in report["techniques"].items():
        cells = _right(row["all"]) if "all" in row else [""] * len(HEADS)
        cells += [f"{row[key]:{style}}" if key in row else "" for key, style in
                  (("psnr_db", ".1f"), ("ssim_mean", ".4f"), ("ssim_tenth", ".4f"), ("worst_ssim", ".4f"), ("feature_distance", ".4f"))]
        rows.append([named.get(name, name), *cells, *(_taken(made["techniques"].get(name, {}).get("steps_s")) for made in machines)])
    return table(heads, rows)


def _taken(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s" if seconds >= 0.2 else f"{1000 * seconds:.1f} ms"


_BLOCKS = {"probe_on_rendered": _probe, "accuracy": _accuracy, "variety": _variety, "turbo_to_full": _turbo_to_full, "worded": _worded, "larger": _larger,
           "rendered": _rendered, "vae": _vae}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="report.json, or several of one report's parts")
    parser.add_argument("--times", nargs="+", type=Path, default=[], metavar="REPORT", help="report.json of other machines, for their times of techniques")
    parser.add_argument("--into", nargs="+", type=Path, default=[], metavar="DOC", help="write the tables into these; without it they are printed")
    parser.add_argument("--out", type=Path, help="write the parts as one report here")
    options = parser.parse_args()
    try:
        report = merged([json.loads(path.read_text()) for path in options.reports])
        made = blocks(report, [json.loads(path.read_text()) for path in options.times])
        documents = {path: filled(path.read_text(), made) for path in options.into}
    except (OSError, ValueError) as error:
        print(f"card: {error}", file=sys.stderr)
        return 2
    if options.out:
        write_whole(options.out, (json.dumps(report, indent=1) + "\n").encode())
    for path, text in documents.items():
        write_whole(path, text.encode())
    if not documents:
        print("\n\n".join(made.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
