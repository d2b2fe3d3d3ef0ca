"""docs/performance.md quotes what bench_engine wrote, to the digit, and its drawing is made of the same files."""
import json
from pathlib import Path

import pytest

from bench.ladder import columns, decoder_table, ladder_table, profile_table, seconds, svg, techniques_table

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


def test_techniques_on_trained_weights_are_those_of_the_committed_results():
    results = [json.loads((ROOT / "bench" / "results" / f"techniques-pocket{name}.json").read_text()) for name in ("-h200", "", "-h100")]
    clips, cores, card = results
    assert "H100" in card["device"] and cores["device"] == "cpu" and all(result["ok"] and not result["errors"] for result in results)
    assert techniques_table(*results) in (ROOT / "docs" / "performance.md").read_text()
    assert [row["name"] for row in clips["rows"]] == [row["name"] for row in card["rows"]] and clips["prompts"] == 24
    assert any(row["name"].startswith("SLA") for row in clips["rows"])
    dense = [row for row in clips["rows"] if "SLA" not in row["name"]]
    assert all(row[question] == 1 for row in dense for question in ("subject", "scene", "camera")) and all(row["motion"] > 0.95 for row in dense)


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
