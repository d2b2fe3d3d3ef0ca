"""A preset small enough for every commit: the shipped file format and every stage of the engine, with random weights."""
import os
import shutil
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from turbo_engine.models.dit import DiT
from turbo_engine.models.vae import VAE
from turbo_engine.presets import PRESETS_DIR, load_preset
from turbo_engine.weights import save_weights

TINY = """
[clip]
num_frames = 9
height = 64
width = 64
fps = 16
sizes = ["64x64", "96x64"]
lengths = [9, 17]
max_num_frames = 17

[text]
encoder = "minilm"
text_len = 16
vocabulary = "world.toml"

[dit]
dim = 48
num_heads = 2
num_layers = 2
ffn_dim = 96
in_channels = 8
out_channels = 8
prediction = "x0"
patch_size = [1, 2, 2]
text_dim = 384
text_len = 16
freq_dim = 32
time_max_freq = 0.02
rope_theta = 100.0
eps = 1e-6

[vae]
latent_channels = 8
encoder_widths = [16, 32, 32]
decoder_widths = [32, 24, 16]
decoder_depths = [1, 1, 1]

[turbo]
num_steps = 4
max_steps = 4
sampler = "fixed-noise"
sigma_max = 80.0
rounding = "exact"
preview_steps = [1]

[full]
num_steps = 6
max_steps = 60
sampler = "unipc"
shift = 3.0
guidance_scale = 4.0
negative_prompt = ""
rounding = "exact"
preview_steps = [3]

[weights]
teacher = "teacher.safetensors"
student = "student.safetensors"
decoder = "decoder.safetensors"
encoder = "encoder.safetensors"
"""


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    torch.set_num_threads(min(2, torch.get_num_threads()))


def write_preset(folder: Path, name: str = "tiny") -> Path:
    """A preset file with its folder of random weights. Returns: the .toml's path."""
    path, own = folder / f"{name}.toml", folder / name
    path.write_text(TINY)
    own.mkdir()
    shutil.copy(PRESETS_DIR / "pocket" / "world.toml", own)
    preset = load_preset(path)
    torch.manual_seed(0)
    for role in ("teacher", "student"):
        model = DiT(preset.dit).init_weights()
        for linear in (model.head.head, model.time_projection[1]):       # zero at the start of training: then all clips are noise
            torch.nn.init.normal_(linear.weight, std=0.1)
        save_weights(own / f"{role}.safetensors", model.state_dict(), role=role, config=asdict(preset.dit), metrics={},
                     commit="test", rows_8bit=True)
    state = VAE(preset.vae).init_weights().state_dict()
    encoder = {key: tensor for key, tensor in state.items() if key.startswith("encoder.")}
    decoder = {key: tensor for key, tensor in state.items() if key not in encoder}
    for role, part, rows_8bit in (("encoder", encoder, True), ("decoder", decoder, False)):
        save_weights(own / f"{role}.safetensors", part, role=role, config=asdict(preset.vae), metrics={}, commit="test",
                     rows_8bit=rows_8bit)
    return path


@pytest.fixture(scope="session")
def tiny_preset_path(tmp_path_factory) -> Path:
    """Shared by all: do not change its files."""
    return write_preset(tmp_path_factory.mktemp("presets"))


def open_minilm(device: str, text_len: int = 16):
    """The installed text encoder, or the copy in the folder that TEXT_ENCODER names, as `distill.prune_text_encoder` writes it."""
    from turbo_engine.models.text_encoder import MiniLM

    folder = os.environ.get("TEXT_ENCODER")
    return MiniLM.opened(Path(folder) if folder else None, text_len=text_len, device=device, dtype=torch.float32)


@pytest.fixture(scope="session")
def text_encoder():
    return open_minilm("cpu")


@pytest.fixture(scope="session")
def engine(tiny_preset_path, text_encoder):
    from turbo_engine.engine import Engine

    return Engine(tiny_preset_path, device="cpu", threads=2, encoder=text_encoder).load()


@pytest.fixture
def hub():
    """A server on loopback that speaks the hub's protocol."""
    from weights.hub import Hub

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
