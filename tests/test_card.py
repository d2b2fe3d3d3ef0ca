"""The model card's tables from a report: its parts put together, and put into a document that keeps all else."""
import json
from pathlib import Path

import pytest

from turbo_engine.distill import card

REPORT = json.loads((Path(__file__).parents[1] / "bench" / "results" / "pocket-report-h100.json").read_text())
DOCUMENT = "# Card\n\n<!-- report: variety -->\n\nold\n\n<!-- /report -->\n\nWords stay.\n\n<!-- report: vae -->\nold\n<!-- /report -->\n"


def test_a_document_gets_its_blocks_and_keeps_the_rest():
    made = card.blocks(REPORT)
    text = card.filled(DOCUMENT, made)
    assert text == DOCUMENT.replace("\nold\n", "@", 1).replace("old", f"\n{made['vae']}\n").replace("@", f"\n{made['variety']}\n")
    assert card.filled(text, made) == text
    assert card.filled(DOCUMENT, {"vae": "x"}).count("old") == 1                 # a report of some parts leaves the others
    with pytest.raises(ValueError, match="vay.*expected one of accuracy"):
        card.filled(DOCUMENT.replace("vae", "vay"), made)


def test_a_number_of_the_report_is_one_of_the_card():
    report = json.loads(json.dumps(REPORT))
    report["accuracy"][card.TURBO]["all"]["motion"] = 0.123
    report["accuracy"][card.TURBO]["sharpness"] = 1.5 * report["accuracy"][card.FULL]["sharpness"]
    block = card.blocks(report)["accuracy"]
    assert "| student, 4 steps, fixed-noise (default) | 1.000 | 1.000 | 0.123 |" in block and "sharpness 1.500, flicker" in block
    for row in report["accuracy"].values():
        del row["held_out"], row["flicker"]
    sharp = 1500 * REPORT["accuracy"][card.FULL]["sharpness"]
    assert f"| 0.123 | 1.000 |  | {sharp:.3f} |  |" in card.blocks(report)["accuracy"]               # few prompts have neither


def test_times_of_other_machines_stand_beside_ones_own():
    cores = {"device": "cpu", "machine": "2 cores of X", "techniques": {card.TURBO: {"steps_s": 0.5}, "fused glue": {"steps_s": None}}}
    lines = card.blocks(REPORT, [cores])["techniques"].splitlines()
    assert lines[0].endswith("| 2 cores of X | H100 |") and len({line.count("|") for line in lines}) == 1
    own = f"{1000 * REPORT['techniques'][card.TURBO]['steps_s']:.1f} ms"
    assert lines[3].startswith("| rCM") and lines[3].endswith(f"| 0.50 s | {own} |") and "|  |" in lines[5]


def test_parts_of_one_report_are_put_together_and_those_of_two_refused(tmp_path, capsys):
    common = {key: REPORT[key] for key in card.SAME}
    parts = [common | {"variety": REPORT["variety"], "seconds": 1.5}, common | {"vae": REPORT["vae"], "seconds": 2.0}]
    files = [tmp_path / f"{n}.json" for n in range(2)]
    for file, part in zip(files, parts):
        file.write_text(json.dumps(part | {"machine": "a machine"}))
    document = tmp_path / "card.md"
    document.write_text(DOCUMENT)
    arguments = [*map(str, files), "--into", str(document), "--out", str(tmp_path / "whole.json")]
    assert run(arguments) == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert (whole["variety"], whole["vae"], whole["seconds"]) == (REPORT["variety"], REPORT["vae"], 3.5)
    before = document.read_text()
    assert "old" not in before
    files[1].write_text(json.dumps(parts[1] | {"commit": "another"}))
    assert run(arguments) == 2 and "expected one commit" in capsys.readouterr().err and document.read_text() == before


def run(arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["card", *arguments])
        return card.main()
