"""The engine's bench on a network small enough for a CPU: every rung runs, is the same function, and is counted right."""
from dataclasses import replace

import pytest
import torch

from bench import bench_engine
from bench.bench_engine import Rung, Work, climb, limit_ms
from bench.random_network import random_network
from bench.report import Report
from turbo_engine.accelerate import PLAIN, Techniques
from turbo_engine.presets import SparseSettings, load_preset

WAN = load_preset("wan2.1-t2v-1.3b-480p")
SMALL = replace(WAN, sparse=SparseSettings(0.5, 16, 16),
                dit=replace(WAN.dit, dim=96, num_heads=2, num_layers=2, ffn_dim=160, text_dim=32))
WORK = Work(SMALL, 5, 96, 64)
CPU = torch.device("cpu")


def test_work_is_counted_as_performance_md_counts_it():
    flop = Work(WAN, 81, 832, 480).flop()
    assert Work(WAN, 81, 832, 480).tokens == 32_760 and Work(WAN, 33, 832, 480).tokens == 14_040
    assert flop["linear"] / 1e12 == pytest.approx(81.9, abs=0.05) and flop["dense attention"] / 1e12 == pytest.approx(197.8, abs=0.1)
    assert flop["cross-attention"] / 1e12 == pytest.approx(3.1, abs=0.05)
    assert flop["attention"] == pytest.approx(flop["dense attention"] * 51 * 64 / 32_760)
    assert Work(WAN, 81, 832, 480).at(0.15).flop()["attention"] == pytest.approx(flop["dense attention"] * 76 * 64 / 32_760)
    assert Work(WAN, 81, 832, 480).at(None).flop() == flop
    limit = limit_ms(Work(WAN, 81, 832, 480), {"8-bit": 1400, "8-bit attention": 1000, "attention": 650, "TB/s": 3.0})
    assert limit["linear"] == pytest.approx(58.5, abs=0.1) and limit["glue"] == pytest.approx(34, abs=0.5)
    assert limit["all"] == pytest.approx(sum(ms for name, ms in limit.items() if name != "all"), abs=0.05)


def test_random_weights_are_the_same_with_and_without_the_linear_branch():
    dense, sparse = random_network(SMALL.dit, None, CPU, torch.float32), random_network(SMALL.dit, SMALL.sparse, CPU, torch.float32)
    kept = sparse.state_dict()
    for name, tensor in dense.state_dict().items():
        assert torch.equal(kept.pop(name), tensor) and tensor.abs().min() >= 0 and tensor.any()
    assert len(kept) == 4 and all(t.any() for t in kept.values())


def test_the_ladder_runs_and_its_rungs_agree(monkeypatch):
    """The rungs of a card, by the torch meaning of its kernels: int8 where it has fp8, no graph."""
    int8 = Techniques(linear="int8")
    rungs = [Rung("full", PLAIN, sparse=False, full=True), Rung("full fused", Techniques(fused=True), sparse=False, full=True),
             Rung("few", PLAIN, sparse=False), Rung("SLA", PLAIN), Rung("W8A8", int8), Rung("Sage", replace(int8, sage="fp8")),
             Rung("glue", replace(int8, sage="fp8", fused=True)), Rung("denser", int8, density=1.0)]
    monkeypatch.setattr(bench_engine, "ladder", lambda device: rungs)
    report = Report("engine", True, {})
    facts = bench_engine.bench(WORK, report, CPU, checked=True, budget_s=0, only="")
    assert not report.errors and [row["name"] for row in report.rows] == [rung.name for rung in rungs]
    assert len(report.checks) == 7 and all(check["ok"] for check in report.checks.values())
    assert report.checks["few (2 blocks)"]["error"] < 1e-5 and 1e-3 < report.checks["W8A8 (2 blocks)"]["error"]
    assert report.rows[0]["steps"] == 50 and report.rows[0]["passes_per_step"] == 2 and report.rows[2]["steps"] == 4
    assert report.rows[0]["clip_s"] == pytest.approx(report.rows[0]["step_ms"] * 50 / 1000, rel=0.01)
    assert [row["calls"] for row in report.rows] == [3] * 6 + [10, 10]
    assert facts["tokens"] == 48 and "W8A8" in report.rows[4]["name"] and report.rows[4]["fitted"][0].startswith("linear layers: int8")


def test_a_rung_may_have_a_density_of_its_own():
    """With all blocks kept the softmax is dense attention's: the linear branch alone stands between the two."""
    noise, text, _, _ = bench_engine.inputs(WORK, CPU)
    velocities = []
    for rung in (Rung("dense", PLAIN, sparse=False), Rung("all kept", PLAIN, density=1.0), Rung("half", PLAIN)):
        network, _ = bench_engine.make(WORK, rung, CPU, torch.float32)
        for name, parameter in network.named_parameters():
            if "proj_l" in name:
                parameter.zero_()
        velocities.append(network(noise, torch.tensor([850.0]), network.embed_text(text)))
    dense, all_kept, half = velocities
    torch.testing.assert_close(all_kept, dense, atol=1e-4, rtol=1e-4)
    assert (half - dense).abs().max() > 1e-2


def test_the_witness_is_of_the_same_size():
    pytest.importorskip("diffusers")
    report = Report("engine", True, {})
    row = bench_engine.witness(report, WORK, CPU, 0)
    assert row["calls"] == 3 and row["step_ms"] > 0


def test_a_rung_that_fails_is_named_and_the_rest_goes_on(monkeypatch):
    report = Report("engine", True, {})
    monkeypatch.setattr(bench_engine, "make", lambda *a: 1 / 0)
    assert report.part("SLA", climb, WORK, Rung("SLA", PLAIN), 3, CPU, None, 0) is None
    assert report.errors == ["SLA: ZeroDivisionError: division by zero"]
