"""Fast forms of a network against its plain form, on the CPU by the kernels' torch meaning and, marked gpu, by the kernels."""
from dataclasses import replace

import pytest
import torch

import kernels
from turbo_engine.accelerate import PLAIN, Techniques, accelerate, fit_sparse_attention, techniques_for
from turbo_engine.families.pocket import pocket_techniques
from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.fused_dit import FusedDiT, GraphedDiT
from turbo_engine.models.linear8 import Linear8
from turbo_engine.presets import SparseSettings

CONFIG = DiTConfig(dim=128, num_heads=2, num_layers=3, ffn_dim=192, in_channels=4, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                   text_dim=16, text_len=6, freq_dim=32, time_max_freq=1.0, rope_theta=100.0, eps=1e-6)
SPARSE = SparseSettings(density=0.3, block_q=16, block_k=16)
WHOLE = replace(SPARSE, density=1.0)      # a rounded input may change which blocks are kept, and that is no rounding
FUSED = Techniques(fused=True)


def build(config=CONFIG, sparse=SPARSE, device="cpu", dtype=torch.float32) -> DiT:
    """Random weights, none of them zero, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    model = DiT(config)
    if sparse is not None:
        fit_sparse_attention(model, sparse)
    for name, parameter in model.named_parameters():
        std = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
        noise = std * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise + (1 if "norm" in name and name.endswith("weight") else 0))
    return model.to(device, dtype).requires_grad_(False).eval()


def inputs(config=CONFIG, batch=2, size=(3, 8, 12), device="cpu"):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.out_channels, *size, generator=generator)
    condition = torch.randn(batch, config.condition_channels, *size, generator=generator) if config.condition_channels else None
    text = torch.randn(batch, config.text_len, config.text_dim, generator=generator)
    return latent.to(device), torch.tensor([850.0, 300.0][:batch]), text.to(device), None if condition is None else condition.to(device)


def distance(x, truth) -> float:
    return ((x.double() - truth.double()).norm() / truth.double().norm()).item()


def run(network, latent, timestep, text, condition):
    with torch.inference_mode():
        return network(latent, timestep, network.embed_text(text), **({} if condition is None else {"condition": condition}))


@pytest.mark.parametrize("changes", [{}, {"prediction": "x0", "text_modulation": True}, {"in_channels": 12}])
@pytest.mark.parametrize("sparse", [SPARSE, None])
def test_the_fused_network_is_the_plain_one(changes, sparse):
    config = replace(CONFIG, **changes)
    truth = run(build(config, sparse), *inputs(config))
    network, fitted = accelerate(build(config, sparse), FUSED, 72)
    assert isinstance(network, FusedDiT) and distance(run(network, *inputs(config)), truth) < 1e-5
    assert fitted == ["between products: fused kernels, stream float32"]


def test_clips_of_one_time_share_its_tables():
    """The same numbers with one time for the batch as with each clip's own, and the latest times are kept."""
    network, _ = accelerate(build(), FUSED, 72)
    latent, _, text, _ = inputs()
    together = run(network, latent, torch.tensor([850.0, 850.0]), text, None)
    for i in range(2):
        assert distance(run(network, latent[i:i + 1], torch.tensor([850.0]), text[i:i + 1], None), together[i:i + 1]) < 1e-5
    assert len(network._tables) == 1 and network.tables(torch.tensor([850.0])).blocks.shape == (3, 6, 1, 128)
    kept = network.tables(torch.tensor([850.0, 850.0]))
    assert kept is network.tables(torch.tensor([850.0]))
    for t in range(20):
        network.tables(torch.tensor([float(t)]))
    assert len(network._tables) == 16 and network.tables(torch.tensor([850.0])) is not kept


@pytest.mark.parametrize("format, limit", [("int8", 0.03), ("fp8", 0.10)])
def test_eight_bit_layers_stay_near(format, limit, monkeypatch):
    """q, k and v in one product, and every large layer of a block in 8 bits, by itself and fed by the fused kernels."""
    if format == "fp8":                         # torch's library has none on a CPU
        real = kernels.linear8
        monkeypatch.setattr("kernels.w8a8.module.linear8", lambda *a, **k: real(*a, **k, backend="torch"))
    truth = run(build(sparse=WHOLE), *inputs())
    plain, _ = accelerate(build(sparse=WHOLE), Techniques(linear=format), 72)
    fused, fitted = accelerate(build(sparse=WHOLE), Techniques(linear=format, fused=True), 72)
    inside = "; GELU inside ffn.0" if format == "fp8" else ""
    assert fitted[0] == f"linear layers: {format} self_attn.qkv, self_attn.o, cross_attn.q, cross_attn.o, ffn.0, ffn.2{inside}"
    layers = [m for m in plain.modules() if isinstance(m, kernels.QuantizedLinear)]
    assert len(layers) == 6 * 3 and plain.blocks[0].self_attn.qkv.weight8.shape == (384, 128)
    assert isinstance(plain.blocks[0].cross_attn.k, torch.nn.Linear) and isinstance(plain.head.head, torch.nn.Linear)
    near = [distance(run(network, *inputs()), truth) for network in (plain, fused)]
    assert max(near) < limit and min(near) > 1e-4
    assert abs(near[0] - near[1]) < 0.2 * limit


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("techniques", [FUSED, Techniques(linear="int8", fused=True)])
def test_weights_that_lie_packed_in_memory_are_taken_as_they_are(blocks, techniques):
    """As a -quant file or a small card leaves them: near the plain network on the same weights, and never larger than they came."""
    def packed() -> DiT:
        model = build(sparse=WHOLE)
        for block in model.blocks:
            for name, linear in list(block.named_modules()):
                if isinstance(linear, torch.nn.Linear) and "proj_l" not in name:
                    layer = Linear8.like(linear, blocks=blocks)
                    amax = linear.weight.abs().amax() if blocks else linear.weight.abs().amax(1)
                    layer.scale.copy_(amax / 127)
                    layer.int8_weight.copy_((linear.weight / (amax / 127 if blocks else amax[:, None] / 127)).round())
                    layer.bias.copy_(linear.bias)
                    block.set_submodule(name, layer)
        return model

    def weight_bytes(blocks) -> int:
        return sum(t.numel() * t.element_size() for t in blocks.state_dict().values() if t.ndim == 2 and max(t.shape) > 100)

    truth, before = run(packed(), *inputs()), weight_bytes(packed().blocks)
    network, _ = accelerate(packed(), techniques, 72)
    assert distance(run(network, *inputs()), truth) < (1e-5 if techniques.linear is None else 0.03)
    assert weight_bytes(network.model.blocks) <= before


def test_sparse_attention_in_8_bits_stays_near():
    truth = run(build(sparse=WHOLE), *inputs())
    network, fitted = accelerate(build(sparse=WHOLE), Techniques(sage="fp8", fused=True), 72)
    assert fitted[0] == "sparse attention: int8 logits, fp8 values"
    assert 1e-4 < distance(run(network, *inputs()), truth) < 0.02
    assert accelerate(build(sparse=None), Techniques(sage="fp8"), 72)[1] == []


@pytest.mark.parametrize("vnni", [False, True])
def test_pockets_turbo_is_in_int8_on_a_cpu_where_that_is_fast_and_full_never(vnni, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    assert pocket_techniques(torch.device("cpu"), "full") == PLAIN
    assert pocket_techniques(torch.device("cpu"), "turbo") == (Techniques(linear="int8") if vnni else PLAIN)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pocket_techniques(torch.device("cpu"), "turbo") == PLAIN


def test_nothing_is_fitted_where_there_is_no_card():
    assert techniques_for(torch.device("cpu"), "turbo") == techniques_for(torch.device("cpu"), "full") == PLAIN
    model = build()
    network, fitted = accelerate(model, PLAIN, 72)
    assert network is model and fitted == []


# --- on the GPU --------------------------------------------------------------------------------------------------------

GPU_CONFIG = replace(CONFIG, dim=512, num_heads=4, ffn_dim=1024, num_layers=4)
GPU_SPARSE = SparseSettings(density=0.25, block_q=128, block_k=64)
GPU_SIZE = (5, 24, 32)            # 960 tokens


@pytest.fixture
def card():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["turbo", "full"])
def test_every_technique_stays_near_the_plain_network(card, mode):
    """Against float32: the plain bf16 network's own distance is the yardstick."""
    arguments = inputs(GPU_CONFIG, size=GPU_SIZE, device=card)
    truth = run(build(GPU_CONFIG, GPU_SPARSE, card), *arguments)
    plain = distance(run(build(GPU_CONFIG, GPU_SPARSE, card, torch.bfloat16), *arguments), truth)
    best = techniques_for(card, mode)
    network, fitted = accelerate(build(GPU_CONFIG, GPU_SPARSE, card, torch.bfloat16), replace(best, graph=False), 960)
    near = distance(run(network, *arguments), truth)
    print(mode, fitted, plain, near)
    assert near < (1.5 * plain if mode == "full" else 0.12)


@pytest.mark.gpu
@pytest.mark.parametrize("text_modulation", [False, True])
def test_a_graph_repeats_the_network(card, text_modulation):
    """Bit for bit, at other times, prompts and shapes too."""
    best = replace(techniques_for(card, "turbo"), graph=False)
    eager, _ = accelerate(build(replace(GPU_CONFIG, text_modulation=text_modulation), GPU_SPARSE, card, torch.bfloat16), best, 960)
    graphed = GraphedDiT(eager)
    for size, time, seed in ((GPU_SIZE, 850.0, 0), (GPU_SIZE, 300.0, 0), (GPU_SIZE, 850.0, 1), ((3, 16, 16), 850.0, 0), (GPU_SIZE, 850.0, 0)):
        latent, _, text, _ = inputs(GPU_CONFIG, 1, size, card)
        text = text + seed
        arguments = latent, torch.tensor([time]), text, None
        assert torch.equal(run(graphed, *arguments), run(eager, *arguments))
    assert len(graphed._recorded) == 2
    graphed.forget()
    assert graphed._recorded == {} and torch.equal(run(graphed, *arguments), run(eager, *arguments))
