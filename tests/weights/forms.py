"""Small random checkpoints in every published form, their key names written from the tables of those who publish them."""
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from turbo_engine.models.config import DiTConfig, UMT5Config
from turbo_engine.weights import TinyNumbers, VAENumbers

DIT = DiTConfig(dim=192, num_heads=2, num_layers=2, ffn_dim=320, in_channels=16, out_channels=16, prediction="velocity",
                patch_size=(1, 2, 2), text_dim=48, text_len=8, freq_dim=32, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)
UMT5 = UMT5Config(vocab_size=64, dim=32, ffn_dim=48, num_layers=2, num_heads=4, head_dim=8, num_buckets=32, max_distance=128)
VAE = VAENumbers(latent_channels=16, width=8)
TINY = TinyNumbers(widths=(16, 8, 8, 8), encoder_width=8)
LINEARS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o",
           "ffn.0", "ffn.2")

State = dict[str, Tensor]


def random_dit(config: DiTConfig = DIT, seed: int = 0) -> State:
    """The full model under our names, float32."""
    from turbo_engine.models.dit import DiT

    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(tensor.shape, generator=generator) for key, tensor in DiT(config).state_dict().items()}


def turbo(state: State, config: DiTConfig = DIT) -> State:
    """As TurboDiffusion releases it: bf16, norms float32, `proj_l` in each block."""
    state, d = dict(state), config.head_dim
    for n in range(config.num_layers):
        state[f"blocks.{n}.self_attn.attn_op.local_attn.proj_l.weight"] = torch.randn(d, d)
        state[f"blocks.{n}.self_attn.attn_op.local_attn.proj_l.bias"] = torch.randn(d)
    return {key: tensor if ".norm" in key else tensor.bfloat16() for key, tensor in state.items()}


def quantised(state: State, config: DiTConfig = DIT) -> tuple[State, State]:
    """A `-quant` file of random int8 blocks; and its weights by the definition, block by block."""
    stored, exact = turbo(state, config), {}
    for n in range(config.num_layers):
        for linear in LINEARS:
            stem = f"blocks.{n}.{linear}"
            rows, columns = stored.pop(stem + ".weight").shape
            q = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
            scale = torch.rand(math.ceil(rows / 128), math.ceil(columns / 128)) * 0.01
            weight = torch.empty(rows, columns)
            for i in range(rows):
                for j in range(0, columns, 128):
                    weight[i, j:j + 128] = q[i, j:j + 128].float() * scale[i // 128, j // 128]
            stored[stem + ".int8_weight"], stored[stem + ".scale"], exact[stem + ".weight"] = q, scale, weight
    return stored, exact


def wan(state: State, config: DiTConfig = DIT) -> State:
    """As Wan publishes it: the patch embedding is a Conv3d."""
    weight = state["patch_embedding.weight"]
    return {**state, "patch_embedding.weight": weight.reshape(len(weight), config.in_channels, 1, 2, 2)}


def umt5_wan(state: State) -> State:
    """transformers' names -> those of models_t5_umt5-xxl-enc-bf16.pth."""
    table = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
    for n in range(UMT5.num_layers):
        block, attention = f"encoder.block.{n}.layer", f"encoder.block.{n}.layer.0.SelfAttention"
        table |= {f"{attention}.{name}.weight": f"blocks.{n}.attn.{name}.weight" for name in "qkvo"}
        table |= {f"{attention}.relative_attention_bias.weight": f"blocks.{n}.pos_embedding.embedding.weight",
                  f"{block}.0.layer_norm.weight": f"blocks.{n}.norm1.weight",
                  f"{block}.1.layer_norm.weight": f"blocks.{n}.norm2.weight",
                  f"{block}.1.DenseReluDense.wi_0.weight": f"blocks.{n}.ffn.gate.0.weight",
                  f"{block}.1.DenseReluDense.wi_1.weight": f"blocks.{n}.ffn.fc1.weight",
                  f"{block}.1.DenseReluDense.wo.weight": f"blocks.{n}.ffn.fc2.weight"}
    return {table[key]: tensor for key, tensor in state.items() if key != "encoder.embed_tokens.weight"}


def tiny_decoder(numbers: TinyNumbers = TINY) -> State:
    """taehv's two sequences of layers, built of torch's own."""
    from torch import nn

    class Memory(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv = nn.Sequential(conv(2 * width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))

    class Time(nn.Module):
        def __init__(self, into, out):
            super().__init__()
            self.conv = nn.Conv2d(into, out, 1, bias=False)

    def conv(into, out, **options):
        return nn.Conv2d(into, out, 3, **options)

    e, (a, b, c, d) = numbers.encoder_width, numbers.widths
    encoder = [conv(3, e), nn.ReLU()]
    for pool in (2, 2, 1):
        encoder += [Time(e * pool, e), conv(e, e, bias=False), Memory(e), Memory(e), Memory(e)]
    decoder = [nn.Identity(), conv(numbers.latent_channels, a), nn.ReLU()]
    for width, finer, grow in ((a, b, 1), (b, c, 2), (c, d, 2)):
        decoder += [Memory(width), Memory(width), Memory(width), nn.Upsample(), Time(width, grow * width), conv(width, finer, bias=False)]
    model = nn.ModuleDict({"encoder": nn.Sequential(*encoder, conv(e, numbers.latent_channels)),
                           "decoder": nn.Sequential(*decoder, nn.ReLU(), conv(d, 3))})
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


def save(path: Path, state: State, metadata: dict | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata=metadata)
    return path


def save_shards(folder: Path, state: State, count: int, stem: str = "diffusion_pytorch_model", index: bool = True) -> Path:
    """A folder as diffusers writes it: numbered shards and the index of their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = sorted(state)
    names = {key: f"{stem}-{1 + i * count // len(keys):05}-of-{count:05}.safetensors" for i, key in enumerate(keys)}
    for name in set(names.values()):
        save(folder / name, {key: state[key] for key in keys if names[key] == name})
    if index:
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def raw_file(path: Path, header: bytes | dict, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file from a hand-made header, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path
