"""How memory is shared, by the numbers, and the layer whose weights are 8-bit."""
from pathlib import Path

import pytest
import torch
from torch import nn

import kernels
from kernels.w8a8.reference import BLOCK, dequantize_blocks
from turbo_engine.errors import TurboError
from turbo_engine.families.wan import fit_linear8, in_rows
from turbo_engine.models.dit import DiT
from turbo_engine.models.linear8 import Linear8
from turbo_engine.plan import (
    ALL_STAYS,
    GIB,
    SIZES,
    check_host,
    choose,
    host_bytes,
    host_free,
    network_bytes,
    plans,
    table,
)
from turbo_engine.presets import list_presets, load_preset
from turbo_engine.types import MODES
from turbo_engine.weights import architecture, assign

PRESETS = [name for name in list_presets() if load_preset(name).files is not None]


def test_the_readme_has_the_table_of_the_command():
    assert "\n".join(table(SIZES)) in (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_what_the_presets_promise():
    """1.3B from 8 GiB, 14B at 480p from 24, A14B with both experts at 80; each plan needs what it says and no more is chosen."""
    assert choose(load_preset("wan2.1-t2v-1.3b-480p"), 8 * GIB).networks == 1
    assert choose(load_preset("wan2.1-t2v-14b-480p"), 24 * GIB).eight_bit
    both = choose(load_preset("wan2.2-i2v-a14b-720p"), 80 * GIB)
    assert both.networks == 2 and not both.eight_bit
    for name in PRESETS:
        preset = load_preset(name)
        for free in range(4, 100, 3):
            fits = [plan for plan in plans(preset) if plan.needed <= free * GIB]
            if fits:
                assert choose(preset, free * GIB) == fits[0]


def test_too_little_host_memory_is_refused_with_numbers(tmp_path):
    """Before anything is loaded: Linux would end the engine in the middle of it, and the page would only see it vanish."""
    preset = load_preset("wan2.1-t2v-1.3b-480p")
    host, device = plans(preset)[1], plans(preset)[0]
    assert host.text == "host" and host_bytes(preset, host, gpu=True) - host_bytes(preset, device, gpu=True) > 8 * GIB
    check_host(preset, device, gpu=True, free=4 * GIB)
    check_host(preset, host, gpu=True, free=None)
    with pytest.raises(TurboError, match=r"memory: expected 14\.. GiB of host memory for wan2.1-t2v-1.3b-480p, found 4.0 free"):
        check_host(preset, host, gpu=True, free=4 * GIB)
    with pytest.raises(TurboError, match=r"expected 3.\.. GiB of host memory for .* on a CPU, found 16.0 free; this preset is made for a GPU"):
        check_host(preset, ALL_STAYS, gpu=False, free=16 * GIB)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    assert host_free(tmp_path / "meminfo") == 2 << 20 and host_free(tmp_path / "none") is None


@pytest.mark.parametrize("name", PRESETS)
def test_files_with_less_in_them_need_less(name):
    preset = load_preset(name)
    for packed, modes in ((frozenset({"turbo"}), MODES), (frozenset(MODES), MODES), (frozenset(), ("turbo",)), (frozenset(), ("full",))):
        assert all(less.needed <= more.needed for less, more in zip(plans(preset, packed=packed, modes=modes), plans(preset)))
    assert plans(preset, modes=("turbo",))[0].needed < plans(preset)[0].needed


def test_a_network_has_the_bytes_that_the_plan_counts():
    """By the model itself on the meta device; in int8 rows as `fit_linear8` makes them."""
    from turbo_engine.accelerate import fit_sparse_attention

    preset = load_preset("wan2.1-t2v-1.3b-480p")
    with torch.device("meta"):
        model = fit_sparse_attention(DiT(preset.dit), preset.sparse).to(torch.bfloat16)
    for eight_bit in (False, True):
        if eight_bit:
            fit_linear8(model, blocks=False)
        held = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        assert held == network_bytes(preset, eight_bit=eight_bit)


# -- 8-bit weights -------------------------------------------------------------------------------------------------------

def test_one_block_size_for_reader_and_kernels():
    assert architecture.BLOCK == BLOCK


@pytest.mark.parametrize("shape", [(256, 384), (200, 130), (1, 7)])
def test_linear8_means_what_its_numbers_say(shape):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(shape), torch.randn(shape[0]), torch.randn(3, 5, shape[1])
    rows, scale = kernels.quantize_rows(weight, format="int8", backend="torch")
    layer = Linear8(shape[1], shape[0], bias=True)
    layer.int8_weight, layer.scale, layer.bias = rows, scale, bias
    exact = nn.functional.linear(x.double(), rows.double() * scale.double()[:, None], bias.double())
    closest = float(exact.abs().max()) * 1e-6            # float32 sums: their order differs from processor to processor
    torch.testing.assert_close(layer(x).double(), exact, rtol=0, atol=closest)
    torch.testing.assert_close(layer.widened()(x).double(), exact, rtol=0, atol=closest)

    blocks = Linear8(shape[1], shape[0], bias=True, blocks=True)
    blocks.int8_weight, blocks.bias = rows, bias
    blocks.scale = torch.rand(-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))
    meant = dequantize_blocks(rows, blocks.scale)
    exact = nn.functional.linear(x.double(), meant.double(), bias.double())
    torch.testing.assert_close(blocks(x).double(), exact, rtol=0, atol=float(exact.abs().max()) * 1e-6)
    assert torch.equal(blocks._weight(torch.bfloat16), meant.bfloat16()) and torch.equal(blocks.widened().weight, meant)


def test_stacked_layers_give_their_outputs_in_a_row():
    torch.manual_seed(0)
    layers, x = [], torch.randn(2, 128)
    for blocks in (False, True):
        layers = [Linear8(128, 256, bias=True, blocks=blocks) for _ in range(3)]
        for layer in layers:
            layer.int8_weight = torch.randint(-128, 128, (256, 128), dtype=torch.int8)
            layer.scale, layer.bias = torch.rand_like(layer.scale) / 100, torch.randn(256)
        torch.testing.assert_close(Linear8.stacked(*layers)(x), torch.cat([layer(x) for layer in layers], -1))


def test_a_network_in_rows_of_eight_bits_is_near_the_exact_one():
    from weights.forms import DIT

    torch.manual_seed(0)
    exact = DiT(DIT).init_weights()
    nn.init.normal_(exact.head.head.weight, std=0.1)
    with torch.device("meta"):
        packed = fit_linear8(DiT(DIT), blocks=False)
    assign(packed, in_rows(exact.state_dict().items()))
    assert not any(type(module) is nn.Linear for block in packed.blocks for module in block.modules())
    latent, text, t = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 8, 48), torch.tensor([800.0])
    with torch.inference_mode():
        one, two = exact(latent, t, text), packed(latent, t, text)
    assert 1e-4 < ((one - two).norm() / one.norm()).item() < 0.03
