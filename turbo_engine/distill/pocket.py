"""Where the training stages meet the shipped preset: its numbers, its files, and how they are written."""
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from turbo_engine.accelerate import fit_sparse_attention
from turbo_engine.models.dit import DiT
from turbo_engine.models.vae import VAE
from turbo_engine.presets import Preset, SparseSettings, load_preset
from turbo_engine.weights import fill, load_weights, read_manifest, save_weights
from turbo_engine.weights.architecture import projection_shapes

FOLDER = Path(__file__).resolve().parents[2] / "presets" / "pocket"
_STATISTICS = ("latent_mean", "latent_std")


def pocket_preset() -> Preset:
    return load_preset("pocket")


def training_commit() -> str:
    """Commit of the code that trains: $SOURCE_COMMIT where set (a copy without its history), else what git says; "-dirty"
    where files differ from it, "unknown" outside a checkout."""
    if commit := os.environ.get("SOURCE_COMMIT"):
        return commit
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=FOLDER, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def save_vae(vae: VAE, folder: Path, metrics: dict) -> None:
    """decoder.safetensors (with the latent statistics) and encoder.safetensors, both as 8-bit rows, which cost 0.03 dB."""
    state = vae.state_dict()
    common = {"config": asdict(vae.config), "metrics": metrics, "commit": training_commit(), "rows_8bit": True}
    decoder = {k: v for k, v in state.items() if k.startswith("decoder.") or k in _STATISTICS}
    encoder = {k: v for k, v in state.items() if k.startswith("encoder.")}
    save_weights(folder / "decoder.safetensors", decoder, role="decoder", **common)
    save_weights(folder / "encoder.safetensors", encoder, role="encoder", **common)


def load_vae(vae: VAE, folder: Path) -> VAE:
    """Fill a VAE from the two files; without an encoder, from decoder.safetensors alone."""
    shapes = {k: tuple(v.shape) for k, v in vae.state_dict().items()}
    state: dict[str, Tensor] = {}
    for role in ("decoder", "encoder") if vae.encoder is not None else ("decoder",):
        wanted = {k: s for k, s in shapes.items() if k.startswith(role + ".") or (role == "decoder" and k in _STATISTICS)}
        state |= load_weights(folder / f"{role}.safetensors", role, wanted)
    vae.load_state_dict(state)
    return vae


def save_dit(model: nn.Module, folder: Path, role: str, metrics: dict) -> None:
    """`role`.safetensors: teacher or student as 8-bit rows."""
    save_weights(folder / f"{role}.safetensors", model.state_dict(), role=role, rows_8bit=True, config=asdict(model.config),
                 metrics=metrics, commit=training_commit())


def load_dit(folder: Path, role: str, *, sparse: SparseSettings | None = None) -> DiT:
    """A network as it attends densely, or with sparse attention and its projections. Raises: WeightsError, also where there are none."""
    path, model = folder / f"{role}.safetensors", DiT(pocket_preset().dit)
    if sparse is None:
        return fill(model, path, role, left_out=projection_shapes(model.config))
    return fill(fit_sparse_attention(model, sparse), path, role)


def sparse_settings(folder: Path) -> SparseSettings | None:
    """At which density and blocks a student learned to attend sparsely, None where it did not."""
    metrics = read_manifest(folder / "student.safetensors")["metrics"]
    return SparseSettings(*(metrics[key] for key in ("density", "block_q", "block_k"))) if "density" in metrics else None
