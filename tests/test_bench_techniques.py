"""The networks that bench_techniques compares are the plain one under each technique."""
from test_accelerate import build, distance, inputs, run

from bench.bench_techniques import variants


def test_each_technique_is_on_and_stays_near():
    plain = build(sparse=None)
    truth = run(plain, *inputs())
    found = {name: distance(run(network, *inputs()), truth) for name, network in variants(plain, 72).items()}
    assert found["fused glue"] < 1e-5
    assert all(1e-3 < error < 0.08 for name, error in found.items() if name != "fused glue"), found
    assert found["W8A8 int8"] < found["W8A8 fp8, GELU inside"] < found["all: fp8 layers, Sage int8"] * 1.2
    assert distance(run(plain, *inputs()), truth) == 0
