"""The networks that the report compares are the plain one under each technique."""
import torch
from test_accelerate import build, distance, inputs, run

from turbo_engine.distill.sla import sparse_twin
from turbo_engine.distill.techniques import variants
from turbo_engine.presets import SparseSettings


def test_each_technique_is_on_and_stays_near():
    plain, sparse = build(sparse=None), SparseSettings(density=0.5, block_q=16, block_k=16)
    twin, truth = sparse_twin(plain, sparse), run(plain, *inputs())
    torch.nn.init.normal_(twin.blocks[0].self_attn.attn_op.local_attn.proj_l.weight, std=0.05)
    found = {name: distance(run(variant.fitted(plain, 72, twin), *inputs()), truth) for name, variant in variants(sparse).items()}
    assert len(found) == 7 and found["fused glue"] < 1e-5
    eight = {name: error for name, error in found.items() if name != "fused glue" and "SLA" not in name}
    assert all(1e-3 < error < 0.08 for error in eight.values()), found
    assert found["W8A8 int8"] < found["W8A8 fp8, GELU inside"] < found["fp8 layers, Sage int8"] * 1.2
    assert found["SLA, 50% of 16x16 blocks"] > 1e-3 and found["fp8 layers, SLA"] != found["W8A8 fp8, GELU inside"]
    assert distance(run(plain, *inputs()), truth) == 0                             # and the plain one is as it was
    assert set(variants()) < set(variants(sparse))
