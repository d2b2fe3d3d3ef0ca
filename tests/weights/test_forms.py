"""Every published form round-trips: write a random model in it, read it under our names, the same tensors come out."""
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from forms import (
    DIT,
    TINY,
    UMT5,
    VAE,
    quantised,
    random_dit,
    save,
    save_shards,
    tiny_decoder,
    turbo,
    umt5_wan,
    wan,
)
from safetensors.torch import load_file
from transformers import UMT5Config, UMT5EncoderModel

from kernels.w8a8.reference import dequantize_blocks
from turbo_engine.errors import WeightsError
from turbo_engine.models.config import WanVAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.weights import MODELS, check_experts, check_twins, identify, open_checkpoint, scan
from turbo_engine.weights.architecture import ROLE_OF, shapes_of_numbers
from turbo_engine.weights.container import ITEM_BYTES, header_bytes
from turbo_engine.weights.layouts import LAYOUTS, expected_of

WIDE = replace(DIT, text_dim=32, in_channels=36)


def read(path, numbers, dtype=None, **wanted):
    with open_checkpoint(path, numbers, **wanted) as checkpoint:
        return dict(checkpoint.tensors(dtype=dtype))


def equal(found, state):
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


def diffusers_dit(config, **more):
    torch.manual_seed(3)
    model = WanTransformer3DModel(num_attention_heads=config.num_heads, attention_head_dim=config.head_dim, in_channels=config.in_channels,
                                  out_channels=16, text_dim=config.text_dim, freq_dim=config.freq_dim, ffn_dim=config.ffn_dim,
                                  num_layers=config.num_layers, **more).eval()
    for parameter in model.parameters():                       # the head starts at zero: nothing would show
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


# -- the transformer -------------------------------------------------------------------------------------------------

def test_turbo(tmp_path):
    state = turbo(random_dit())
    path = save(tmp_path / "anything.safetensors", state)
    found = identify(path)
    assert (found.role, found.layout, found.kind, found.quantised, found.expert, found.model) == ("dit", "turbodiffusion", "turbo", False, "", "")
    assert found.tensors == len(state) and found.elements == sum(t.numel() for t in state.values()) and found.bytes == path.stat().st_size
    equal(read(path, DIT, kind="turbo"), state)
    assert {t.dtype for t in read(path, DIT, dtype=torch.float32).values()} == {torch.float32}


@pytest.mark.parametrize("wrapper", [
    lambda key: f"net.{key}", lambda key: f"model.diffusion_model.{key}",
    lambda key: key.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
    lambda key: key.replace("attn_op.local_attn.proj_l", "local_attn.proj_l")])
def test_training_exports_and_other_spellings(tmp_path, wrapper):
    state = turbo(random_dit())
    path = save(tmp_path / "x.safetensors", {wrapper(key): tensor for key, tensor in state.items()})
    equal(read(path, DIT, kind="turbo"), state)


def test_training_exports_may_be_float32_with_a_convolution(tmp_path):
    state = {key: tensor.float() for key, tensor in wan(turbo(random_dit())).items()}
    path = save(tmp_path / "x.safetensors", {f"net.{key}": tensor for key, tensor in state.items()})
    found = read(path, DIT, kind="turbo")
    assert torch.equal(found["patch_embedding.weight"], state["patch_embedding.weight"].flatten(1))


def test_int8_blocks(tmp_path):
    """Exactly int8 * scale of its block, ragged edges included; or left as they are for 8-bit layers."""
    stored, exact = quantised(random_dit())
    path = save(tmp_path / "x.safetensors", stored)
    assert identify(path).quantised and identify(path).kind == "turbo"
    found = read(path, DIT, kind="turbo")
    for key, weight in exact.items():
        assert torch.equal(found[key], weight), key
    equal({key: tensor for key, tensor in found.items() if key not in exact},
          {key: tensor for key, tensor in stored.items() if not key.endswith(("int8_weight", "scale"))})
    with open_checkpoint(path, DIT) as checkpoint:
        equal(dict(checkpoint.tensors(dequantise=False)), stored)
    assert torch.equal(read(path, DIT, torch.bfloat16)["blocks.0.ffn.0.weight"], exact["blocks.0.ffn.0.weight"].bfloat16())


def test_int8_blocks_under_diffusers_names(tmp_path):
    stored, exact = quantised(random_dit())
    q, scale = stored["blocks.1.ffn.2.int8_weight"], stored["blocks.1.ffn.2.scale"]
    state = {diffusers_name(key): tensor for key, tensor in wan(stored).items()}
    assert state["blocks.1.ffn.net.2.weight"] is q and state["blocks.1.ffn.net.2.weight_scale_inv"] is scale
    found = read(save(tmp_path / "x.safetensors", state), DIT, kind="turbo")
    assert all(torch.equal(found[key], weight) for key, weight in exact.items())


def diffusers_name(key):
    """One after the other, as the table in diffusers' own converter has them."""
    for old, new in (("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
                     ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
                     ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
                     ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
                     ("time_projection.1", "condition_embedder.time_proj"), ("cross_attn", "attn2"), ("self_attn", "attn1"),
                     (".o.", ".to_out.0."), (".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."),
                     ("head.modulation", "scale_shift_table"), ("head.head", "proj_out"), ("modulation", "scale_shift_table"),
                     ("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2"), ("norm3", "norm2"), ("int8_weight", "weight"),
                     ("attn_op.local_attn.proj_l", "attn_impl.proj_l")):
        key = key.replace(old, new)
    return key + "_" if key.endswith("weight_") else key.replace(".scale", ".weight_scale_inv") if key.endswith(".scale") else key


def test_dequantising_by_hand():
    blocks, scale = torch.tensor([[2, -128], [127, 0]], dtype=torch.int8), torch.tensor([[0.5]])
    assert dequantize_blocks(blocks, scale).tolist() == [[1.0, -64.0], [63.5, 0.0]]


@pytest.mark.parametrize("shards", [1, 3])
def test_wan(tmp_path, shards):
    state = random_dit()
    folder = save_shards(tmp_path / "wan", wan(state), shards)
    found = identify(folder)
    assert (found.layout, found.kind, found.tensors) == ("wan", "full", len(state))
    equal(read(folder, DIT, kind="full"), state)
    if shards > 1:
        (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()      # complete by its numbers
        equal(read(folder, DIT), state)


@pytest.mark.parametrize("config", [replace(DIT, text_dim=32), WIDE])
def test_diffusers_folder_gives_the_same_output(tmp_path, config):
    """A folder that diffusers wrote, sharded, filled into our transformer on the meta device: the same velocity."""
    theirs = diffusers_dit(config)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="2MB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    with torch.device("meta"):
        ours = DiT(config)
    seen = []
    with open_checkpoint(tmp_path / "transformer", config, kind="full") as checkpoint:
        checkpoint.load_into(ours, "cpu", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == checkpoint.identity.elements * 4
    latent, text, timestep = torch.randn(1, config.in_channels, 2, 4, 4), torch.randn(1, 8, 32), torch.tensor([700.0])
    condition = {"condition": latent[:, 16:]} if config.condition_channels else {}
    with torch.no_grad():
        want = theirs(latent, timestep, text).sample
        found = ours(latent[:, :16], timestep, text, **condition)
    assert (found - want).norm() / want.norm() < 1e-5


def test_a_turbo_file_in_a_dense_model(tmp_path):
    path = save(tmp_path / "x.safetensors", turbo(random_dit()))
    with open_checkpoint(path, DIT) as checkpoint:
        model = checkpoint.load_into(DiT(DIT), "cpu", torch.float32, leave_out=("*.proj_l.*",))
        with pytest.raises(ValueError, match="got none"):
            checkpoint.load_into(DiT(DIT), "cpu")
    assert all(not parameter.requires_grad for parameter in model.parameters())


# -- what goes with it -----------------------------------------------------------------------------------------------

def vae_config():
    return WanVAEConfig(16, VAE.width, VAE.multipliers, (0.0,) * 16, (1.0,) * 16)


def test_vae_of_wan_and_its_halves(tmp_path):
    torch.manual_seed(5)
    model = WanVAE(vae_config())
    state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    path = save(tmp_path / "x.safetensors", state)
    assert (identify(path).role, identify(path).layout, identify(path).model) == ("vae", "wan", "")
    equal(read(path, vae_config()), state)
    with open_checkpoint(path, VAE) as checkpoint:
        half = checkpoint.load_into(WanVAE(vae_config(), encoder=False), "cpu", leave_out=("encoder.*", "conv1.*"))
    assert torch.equal(half.decoder.conv1.weight, state["decoder.conv1.weight"])


def test_vae_of_diffusers_gives_the_same_frames(tmp_path):
    torch.manual_seed(6)
    theirs = AutoencoderKLWan(base_dim=VAE.width, latents_mean=[0.0] * 16, latents_std=[1.0] * 16).eval()
    theirs.save_pretrained(tmp_path / "vae")
    assert (identify(tmp_path / "vae").role, identify(tmp_path / "vae").layout) == ("vae", "diffusers")
    with torch.device("meta"):
        ours = WanVAE(vae_config())
    with open_checkpoint(tmp_path / "vae", VAE) as checkpoint:
        checkpoint.load_into(ours, "cpu")
    latent = torch.randn(1, 16, 2, 2, 2)
    with torch.no_grad():
        want, found = (theirs.decode(latent).sample * 0.5 + 0.5).clamp(0, 1), ours.decode(latent)
    assert (found - want).norm() / want.norm() < 1e-5


def test_norms_of_a_dit_stay_float32_as_they_are_released(tmp_path):
    state = turbo(random_dit())
    with open_checkpoint(save(tmp_path / "x.safetensors", state), DIT) as checkpoint:
        for key, tensor in checkpoint.tensors("cpu", torch.bfloat16):
            assert tensor.dtype == (torch.float32 if ".norm" in key else torch.bfloat16)
            assert torch.equal(tensor, state[key])


@pytest.mark.parametrize("form", ["transformers", "wan", "both names", "comfy"])
def test_umt5(tmp_path, form):
    torch.manual_seed(7)
    config = UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
    theirs = UMT5EncoderModel(config).eval()
    state = {key: tensor.detach().clone() for key, tensor in theirs.state_dict().items()}
    if form == "wan":
        save(tmp_path / "model.safetensors", umt5_wan({key: tensor.bfloat16() for key, tensor in state.items()}))
    elif form == "comfy":                                      # one name for the table, and the tokenizer's bytes beside it
        del state["encoder.embed_tokens.weight"]
        save(tmp_path / "model.safetensors", {**{key: tensor.clone() for key, tensor in state.items()}, "spiece_model": torch.ones(99, dtype=torch.uint8)})
    elif form == "both names":
        save(tmp_path / "model.safetensors", state)
    else:
        theirs.save_pretrained(tmp_path)
    found = identify(tmp_path)
    assert (found.role, found.layout) == ("text_encoder", "wan" if form == "wan" else "transformers")
    with torch.device("meta"):
        ours = UMT5EncoderModel(config).eval()
    with open_checkpoint(tmp_path, UMT5) as checkpoint:
        checkpoint.load_into(ours, "cpu", torch.float32)
    ids = torch.tensor([[3, 9, 60, 1]])
    if form == "wan":
        theirs = theirs.bfloat16().float()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert ours.encoder.embed_tokens.weight is ours.shared.weight


def test_tiny_decoder(tmp_path):
    state = tiny_decoder()
    path = save(tmp_path / "x.safetensors", state)
    assert (identify(path).role, identify(path).layout) == ("tiny_decoder", "taehv")
    equal(read(path, TINY), state)


# -- several at once -------------------------------------------------------------------------------------------------

def test_scan_of_a_folder_people_have(tmp_path):
    save(tmp_path / "TurboWan.safetensors", turbo(random_dit()))
    save(tmp_path / "tiny.safetensors", tiny_decoder())
    save_shards(tmp_path / "transformer", wan(random_dit()), 2)
    save_shards(tmp_path / "transformer_2", wan(random_dit()), 2)
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"PK\x03\x04" + bytes(64))
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    (tmp_path / "README.md").write_text("x")
    notes = []
    found = scan(tmp_path, lambda path, why: notes.append((path.name, why)))
    assert [(item.role, item.kind, item.expert) for item in found] == [
        ("dit", "turbo", ""), ("tiny_decoder", "", ""), ("dit", "full", "high-noise"), ("dit", "full", "low-noise")]
    assert sorted(name for name, _ in notes) == ["Wan2.1_VAE.pth", "page.safetensors"]
    assert f"python -m turbo_engine.weights convert {tmp_path / 'Wan2.1_VAE.pth'}" in dict(notes)["Wan2.1_VAE.pth"]
    with pytest.raises(WeightsError, match="expected a folder"):
        scan(tmp_path / "none")


def test_swapped_pairs_of_experts_are_told_by_content(tmp_path):
    """Distilled experts named the wrong way round: each is nearer to the full model's other one."""
    config = replace(DIT, in_channels=36)
    full = [random_dit(config, seed) for seed in (1, 2)]
    distilled = [{key: tensor + 0.1 * torch.randn_like(tensor) for key, tensor in state.items()} for state in full]

    def check(turbos, fulls):
        with ExitStack() as stack:
            check_twins(*([stack.enter_context(open_checkpoint(save(tmp_path / f"{kind}-{name}.safetensors", form(state, config)), config, kind=kind))
                           for name, state in zip(("high", "low"), states)] for kind, form, states in (("turbo", turbo, turbos), ("full", wan, fulls))))

    check(distilled, full)
    check([random_dit(config, seed) for seed in (3, 4)], full)                                       # unrelated: nobody knows
    for pair, other in ((distilled[::-1], full), (distilled, full[::-1])):
        with pytest.raises(WeightsError, match="turbo-high.safetensors: expected the high-noise expert, found weights nearer to .*full-low.* swap its files"):
            check(pair, other)


def test_experts(tmp_path):
    """Alike in every shape: told apart by name or metadata where these tell, and never the same one twice."""
    high, low, nameless = (save(tmp_path / f"{name}.safetensors", turbo(random_dit(seed=seed)))
                           for seed, name in enumerate(("A14B-high-720P", "A14B-low-720P", "model")))
    assert [identify(path).expert for path in (high, low, nameless)] == ["high-noise", "low-noise", ""]
    with open_checkpoint(high, DIT, expert="high-noise") as a, open_checkpoint(low, DIT, expert="low-noise") as b:
        check_experts(a, b)
        with pytest.raises(WeightsError, match="expected the high-noise expert, found low-noise in its name or metadata; swap"):
            check_experts(b, a)
    for wanted in ("high-noise", "low-noise"):
        open_checkpoint(nameless, DIT, expert=wanted).__exit__()
    copy = save(tmp_path / "copy.safetensors", {key: tensor.clone() for key, tensor in turbo(random_dit(seed=0)).items()})
    copy.write_bytes(high.read_bytes())
    with open_checkpoint(high, DIT) as a, open_checkpoint(copy, DIT) as b, pytest.raises(WeightsError, match="the same weights"):
        check_experts(a, b)
    told = save(tmp_path / "told.safetensors", turbo(random_dit()), {"expert": "low-noise"})
    with pytest.raises(WeightsError, match="swap the two files"):
        open_checkpoint(told, DIT, expert="high-noise")


# -- cost ------------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of resident memory")
def test_host_memory_stays_below_the_largest_shard(tmp_path):
    """An umT5 in three shards, each tensor let go at once: less than one shard, and more where all are kept."""
    numbers = replace(UMT5, vocab_size=4096, dim=1024, ffn_dim=4096, num_layers=4, num_heads=16, head_dim=64)
    state = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes_of_numbers(numbers).items()}
    folder = save_shards(tmp_path / "text_encoder", state, 3, stem="model")
    largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    script = f"""
from turbo_engine.models.config import UMT5Config
from turbo_engine.weights import open_checkpoint
def memory(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) << 10
def growth(keep=False):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    with open_checkpoint({str(folder)!r}, {numbers!r}) as checkpoint:
        kept = [tensor if keep else None for _, tensor in checkpoint.tensors("cpu")]
    assert len(kept) == {len(state)}
    return memory("VmHWM") - before
growth()                                        # the allocator's own pools fill
careful = growth()
print(careful, growth(keep=True))"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2],
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    careful, careless = map(int, done.stdout.split())
    assert careful < 0.8 * largest < 1.3 * largest < careless, (careful, careless, largest)


TRUE = [("Wan2.1-T2V-1.3B", "turbodiffusion", "turbo", False, 885, 1_419_492_160), ("Wan2.1-T2V-1.3B", "turbodiffusion", "turbo", True, 1185, None),
        ("Wan2.1-T2V-1.3B", "wan", "full", False, 825, 1_418_996_800), ("Wan2.1-T2V-14B", "diffusers", "full", False, 1095, 14_288_491_584),
        ("Wan2.1-T2V-14B", "turbodiffusion", "turbo", True, 1575, None), ("Wan2.2-I2V-A14B", "turbodiffusion", "turbo", False, 1175, 14_289_561_664),
        ("Wan2.1-VAE", "wan", "", False, 194, 126_892_531), ("Wan2.1-VAE", "diffusers", "", False, 194, 126_892_531),
        ("UMT5-XXL", "wan", "", False, 242, 5_680_910_336), ("UMT5-XXL", "transformers", "", False, 242, 5_680_910_336),
        ("taew2_1", "taehv", "", False, 128, 11_315_539)]


@pytest.mark.parametrize("model, layout, kind, int8, tensors, elements", TRUE)
def test_true_sizes_by_header_alone(tmp_path, model, layout, kind, int8, tensors, elements):
    """Files of the published sizes, all hole but the header: told, checked whole, and held against every other model."""
    numbers = MODELS[model]
    rule = next(item for item in LAYOUTS if (item.name, item.role) == (layout, ROLE_OF[type(numbers)]))
    table = expected_of(numbers, rule, sla=kind == "turbo", quantised=int8, official=True)
    header = header_bytes({key: (item.dtypes[0], item.shape) for key, item in table.items()}, {})
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(math.prod(item.shape) * ITEM_BYTES[item.dtypes[0]] for item in table.values()))
    found = identify(path)
    assert (found.model, found.layout, found.kind, found.quantised, found.tensors) == (model, layout, kind, int8, tensors)
    assert elements in (None, found.elements)
    open_checkpoint(path, numbers, kind=kind).__exit__()
    for other in MODELS.keys() - {model}:
        with pytest.raises(WeightsError, match=f"it looks like {model}"):
            open_checkpoint(path, MODELS[other])
    for wrong in {"turbo", "full"} - {kind}:
        if kind:
            with pytest.raises(WeightsError, match=f"expected the {wrong} model"):
                open_checkpoint(path, numbers, kind=wrong)


def test_published_digests_find_flips(tmp_path):
    """The container accepts any change in its data; a digest known beforehand, as the hub lists it, does not."""
    import hashlib
    path = save(tmp_path / "x.safetensors", tiny_decoder())
    data = bytearray(path.read_bytes())
    digest = {path.name: hashlib.sha256(data).hexdigest()}
    with open_checkpoint(path, TINY) as checkpoint:
        assert checkpoint.verify(digest) and not checkpoint.verify()
    data[-5] ^= 16
    path.write_bytes(data)
    with open_checkpoint(path, TINY) as checkpoint, pytest.raises(WeightsError, match="damaged or replaced"):
        checkpoint.verify(digest)


def test_reading_what_was_checked(tmp_path):
    """A file replaced after its check: the checked one is read. One cut short under us: refused, no crash."""
    state, path = tiny_decoder(), tmp_path / "x.safetensors"
    with open_checkpoint(save(path, state), TINY) as checkpoint:
        os.replace(save(tmp_path / "y.safetensors", {key: torch.zeros_like(t) for key, t in state.items()}), path)
        equal(dict(checkpoint.tensors()), state)
    with open_checkpoint(path, TINY) as checkpoint:
        os.truncate(path, 4096)
        with pytest.raises(WeightsError, match="expected .* bytes as when it was opened, found 4,096"):
            dict(checkpoint.tensors())
    assert load_file(save(path, state)).keys() == state.keys()
