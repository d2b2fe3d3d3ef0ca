"""Every tensor of every model from its numbers: the counts of the published files, and the names of the published classes."""
import math
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from forms import DIT, TINY, turbo
from transformers import UMT5Config, UMT5EncoderModel

from turbo_engine.models.config import DiTConfig, WanVAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.weights import MODELS
from turbo_engine.weights.architecture import ROLE_OF, shapes_of_numbers
from turbo_engine.weights.layouts import LAYOUTS, expected_of, scale_shape


def expected(numbers, layout, **options):
    found = next(item for item in LAYOUTS if (item.name, item.role) == (layout, ROLE_OF[type(numbers)]))
    return expected_of(numbers, found, **{"sla": False, "quantised": False, "official": True, **options})


def elements(table):
    return sum(math.prod(item.shape) for item in table.values())


@pytest.mark.parametrize("model, tensors, count", [
    ("Wan2.1-T2V-1.3B", 885, 1_419_492_160), ("Wan2.1-T2V-14B", 1175, 14_289_152_064), ("Wan2.2-I2V-A14B", 1175, 14_289_561_664)])
def test_turbo_files_have_the_published_counts(model, tensors, count):
    table = expected(MODELS[model], "turbodiffusion", sla=True)
    assert (len(table), elements(table)) == (tensors, count)
    dtypes = [item.dtypes for item in table.values()]
    layers = MODELS[model].num_layers
    assert dtypes.count(("F32",)) == 6 * layers and dtypes.count(("BF16",)) == tensors - 6 * layers


def test_the_real_turbo_file_has_705_bf16_and_180_float32_tensors():
    dtypes = [item.dtypes for item in expected(MODELS["Wan2.1-T2V-1.3B"], "turbodiffusion", sla=True).values()]
    assert (dtypes.count(("BF16",)), dtypes.count(("F32",))) == (705, 180)


@pytest.mark.parametrize("model, tensors, linears", [("Wan2.1-T2V-1.3B", 1185, 300), ("Wan2.1-T2V-14B", 1575, 400)])
def test_quantised_files_have_ten_linears_a_block(model, tensors, linears):
    table = expected(MODELS[model], "turbodiffusion", sla=True, quantised=True)
    assert len(table) == tensors and sum(item.part == "int8" for item in table.values()) == linears
    assert {item.dtypes for key, item in table.items() if key.endswith(".scale")} == {("F32",)}


def test_scale_shapes_are_the_published_ones():
    small = expected(MODELS["Wan2.1-T2V-1.3B"], "turbodiffusion", sla=True, quantised=True)
    large = expected(MODELS["Wan2.1-T2V-14B"], "turbodiffusion", sla=True, quantised=True)
    for table, square, wide in ((small, 12, 70), (large, 40, 108)):
        assert table["blocks.0.cross_attn.o.scale"].shape == (square, square)
        assert table["blocks.3.ffn.0.scale"].shape == (wide, square) and table["blocks.3.ffn.2.scale"].shape == (square, wide)
    assert scale_shape((129, 128)) == (2, 1)


def test_sizes_of_the_companions():
    sizes = {"Wan2.1-VAE": (194, 126_892_531), "UMT5-XXL": (242, 5_680_910_336), "taew2_1": (128, 11_315_539)}
    for name, (tensors, count) in sizes.items():
        shapes = shapes_of_numbers(MODELS[name])
        assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, count)


def same(table, model, left_out=()):
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in left_out}
    assert {key: item.shape for key, item in table.items()} == theirs


@pytest.mark.parametrize("name", ["Wan2.1-T2V-1.3B", "Wan2.2-I2V-A14B"])
def test_diffusers_transformer(name):
    c = MODELS[name]
    with torch.device("meta"):
        same(expected(c, "diffusers"), WanTransformer3DModel(num_attention_heads=c.num_heads, attention_head_dim=c.head_dim,
                                                             in_channels=c.in_channels, ffn_dim=c.ffn_dim, num_layers=c.num_layers))


def test_diffusers_autoencoder():
    with torch.device("meta"):
        same(expected(MODELS["Wan2.1-VAE"], "diffusers"), AutoencoderKLWan())


def test_transformers_umt5():
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
                                            feed_forward_proj="gated-gelu"))
    same(expected(MODELS["UMT5-XXL"], "transformers"), model, left_out=("encoder.embed_tokens.weight",))


def test_our_own_modules():
    with torch.device("meta"):
        for numbers in (DIT, replace(DIT, text_modulation=True)):
            assert shapes_of_numbers(numbers) == {key: tuple(t.shape) for key, t in DiT(numbers).state_dict().items()}
        config = WanVAEConfig(16, 96, (1, 2, 4, 4), (0.0,) * 16, (1.0,) * 16)
        assert shapes_of_numbers(config) == {key: tuple(t.shape) for key, t in WanVAE(config).state_dict().items()}
    assert shapes_of_numbers(MODELS["Wan2.1-VAE"]) == shapes_of_numbers(config)


def test_turbo_form_matches_the_rule():
    from forms import random_dit, tiny_decoder

    stored = turbo(random_dit())
    assert {key: item.shape for key, item in expected(DIT, "turbodiffusion", sla=True).items()} == {k: tuple(t.shape) for k, t in stored.items()}
    assert shapes_of_numbers(TINY) == {key: tuple(tensor.shape) for key, tensor in tiny_decoder().items()}


def test_no_two_keys_of_ours_share_a_name_of_theirs():
    for layout in LAYOUTS:
        for numbers in (numbers for numbers in MODELS.values() if ROLE_OF[type(numbers)] == layout.role):
            sla = isinstance(numbers, DiTConfig)
            keys = shapes_of_numbers(numbers, sla=sla)
            assert len({layout.rename(key) for key in keys}) == len(keys)
