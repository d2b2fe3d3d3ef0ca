"""docs/performance.md and the model card quote what bench_engine and the report wrote, to the digit, and the drawing is made of the same files."""
import json
import re
from pathlib import Path

import pytest

from bench.ladder import columns, decoder_table, ladder_table, profile_table, seconds, svg
from turbo_engine.distill.card import FULL, TURBO, blocks, filled

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DENSER, DECODERS = ([json.loads(path.read_text()) for path in sorted((ROOT / "bench" / "results").glob(f"{name}-*.json"))]
                             for name in ("engine", "density", "vae"))
LADDER = columns(RESULTS + DENSER)


def test_tables_are_those_of_the_committed_results():
    text = (ROOT / "docs" / "performance.md").read_text()
    assert len(RESULTS) == len(LADDER) == 5
    for table in (ladder_table(LADDER), *(profile_table(result) for result in RESULTS if result.get("profile")), *map(decoder_table, DECODERS)):
        assert table in text
    assert svg(LADDER) == (ROOT / "docs" / "ladder.svg").read_text()


REPORT, CORES = (json.loads((ROOT / "bench" / "results" / f"pocket-{name}.json").read_text()) for name in ("report-h100", "times-2-cores"))


def test_tables_of_pocket_are_those_of_the_committed_report():
    made, places = blocks(REPORT, [CORES]), []
    for name in ("model-card", "performance"):
        text = (ROOT / "docs" / f"{name}.md").read_text()
        assert filled(text, made) == text
        places += re.findall(r"<!-- report: (\w+) -->", text)
    assert sorted(places) == sorted(made)


def test_pocket_is_as_good_as_it_must_be():
    """The bars that its weights are shipped by."""
    teacher, student = (REPORT["accuracy"][name] for name in (FULL, TURBO))
    assert (REPORT["prompts"], REPORT["held_out"], REPORT["draws"]) == (600, 200, 3)
    for head, bar in {"subject": 0.9, "scene": 0.97, "motion": 0.85, "camera": 0.85}.items():
        assert teacher["all"][head] >= bar and student["all"][head] >= 0.97 * teacher["all"][head]
        assert teacher["held_out"][head] >= 0.85 * teacher["all"][head]
    assert REPORT["vae"]["psnr_db"] >= 32 and REPORT["vae"]["psnr_subject_db"] >= 28
    assert 0.9 <= student["sharpness"] / teacher["sharpness"] <= 1.1 and student["flicker"] <= 1.2 * teacher["flicker"]
    assert REPORT["variety"][TURBO] >= 0.8 * REPORT["variety"][FULL]
    assert all(min(right.values()) > 0.99 for right in REPORT["probe_on_rendered"].values())


def test_no_technique_costs_what_one_asked_for():
    rows = REPORT["techniques"]
    assert "H100" in REPORT["device"] and CORES["device"] == "cpu" and CORES["techniques"].keys() == rows.keys()
    assert list(rows)[:2] == [FULL, TURBO] and sum(name.startswith("SLA") for name in rows) == 1 and len(rows) == 10
    for name, row in rows.items():
        assert min(row["all"].values()) > 0.99 and (row["steps_s"] is None) == (name == "another seed"), name


def test_results_are_sound():
    """One card and one call, density 0.10 and beside it 0.15; nothing failed, each check within its limit, ten clips or more behind the last rung."""
    assert len({result["device"] for result in RESULTS + DENSER}) == len({result["call"] for result in RESULTS}) == 1
    assert all(result["density"] == 0.1 for result in RESULTS)
    for result in LADDER:
        ends = [row for row in result["rows"] if row["name"].startswith(("CUDA graph", "the same at density"))]
        assert [row.get("density", 0.1) for row in ends] == [0.1, 0.15] and ends[0]["step_ms"] < ends[1]["step_ms"]
    for result in RESULTS + DENSER:
        assert result["ok"] and not result["errors"] and result["rows"][-1]["calls"] >= 10
        assert all(check["error"] <= check["limit"] for check in result["checks"].values())
    for result in RESULTS:
        row = next(row for row in result["rows"] if row["name"].startswith("CUDA graph"))
        assert row["share_of_limit"] == pytest.approx(result["limit_ms"]["all"] / row["step_ms"], abs=2e-3)


@pytest.mark.parametrize("value, text", [(0.2371, "0.237"), (2.8604, "2.86"), (71.268, "71.27"), (986.4, "986")])
def test_seconds(value, text):
    assert seconds(value) == text
