"""One clip over several processes gives what one process gives."""
import json
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_accelerate import CONFIG, FUSED, SPARSE, build, distance, inputs, run

from turbo_engine.accelerate import Techniques, accelerate
from turbo_engine.models.split_sequence import SplitSequence, split_sequence

SIZES = [(3, 8, 12), (1, 6, 10)]            # 72 tokens; 15, which no two processes share evenly


def network(sparse, techniques):
    return accelerate(build(sparse=sparse), techniques, 72)[0]


def work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        found = {}
        for name, sparse, techniques in cases():
            split = split_sequence(network(sparse, techniques))
            for size in SIZES:
                found[name, size] = run(split, *inputs(size=size))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def cases():
    return [("sparse", SPARSE, FUSED), ("dense", None, FUSED), ("8-bit", SPARSE, Techniques(linear="int8", fused=True))]


@pytest.fixture
def port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_give_what_one_gives(tmp_path, port):
    mp.spawn(work, (2, port, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, sparse, techniques in cases():
        alone = network(sparse, techniques)
        for size in SIZES:
            truth = run(alone, *inputs(size=size))
            for result in results:
                assert distance(result[name, size], truth) < 1e-5, (name, size)
            assert torch.equal(results[0][name, size], results[1][name, size])


def test_shares_differ_by_one_token_at_most():
    split = SplitSequence.__new__(SplitSequence)
    for size in (1, 2, 3, 8):
        split.size = size
        for tokens in (8, 9, 32_760):
            shares = split.shares(tokens)
            assert sum(shares) == tokens and len(shares) == size and max(shares) - min(shares) <= 1


def test_heads_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    with pytest.raises(ValueError, match=f"processes: expected a divisor of {CONFIG.num_heads} heads, got 3"):
        split_sequence(network(None, FUSED))


def bench_once(rank: int, port: int, preset: str, folder: str) -> None:
    from bench.bench_split import main

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    assert main(["--preset", preset, "--frames", "5", "--size", "96x64", "--budget", "0", "--out", f"{folder}/split.json"]) == 0


def test_the_bench_runs(tmp_path, port):
    from tiny_wan import T2V, TEMPLATE

    preset = tmp_path / "tiny.toml"
    preset.write_text(TEMPLATE.format(channels=T2V, mean=[0.0] * 16, std=[1.0] * 16, turbo='["a/b/c"]', full='["a/b/c"]', experts=""))
    mp.spawn(bench_once, (port, str(preset), str(tmp_path)), nprocs=2)
    result = json.loads((tmp_path / "split.json").read_text())
    assert result["ok"] and result["processes"] == 2 and [row["name"] for row in result["rows"]] == ["alone", "shared"]
    assert result["checks"]["shared against alone"]["error"] < 1e-5 and result["times_faster"] > 0
