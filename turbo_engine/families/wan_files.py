"""Which of the files in a user's folder are the parts of a Wan preset, by their content."""
from dataclasses import dataclass
from pathlib import Path

from turbo_engine.errors import WeightsError
from turbo_engine.models.experts import HIGH, LOW
from turbo_engine.presets import Preset
from turbo_engine.weights import Identity, TinyNumbers, scan
from turbo_engine.weights.identify import size_of, size_text

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class WanFiles:
    """Paths of a preset's parts. networks: by name, "turbo" and "full", with " high-noise" and " low-noise" where there are two."""

    networks: dict[str, Identity]
    vae: Identity
    text_encoder: Identity
    tokenizer: Path
    tiny_vae: Identity | None


def network_names(preset: Preset, mode: str) -> tuple[str, ...]:
    return (mode,) if preset.experts is None else (f"{mode} {HIGH}", f"{mode} {LOW}")


def tiny_numbers(preset: Preset) -> TinyNumbers:
    return TinyNumbers(widths=preset.tiny_vae.widths, latent_channels=preset.tiny_vae.latent_channels)


def find_files(preset: Preset, folder: Path) -> WanFiles:
    """Raises: WeightsError naming every part that is missing, what was found instead, and how to get it.

    The full networks may be missing: then only turbo clips can be made. So may the tiny decoder.
    """
    refused: list[str] = []
    try:
        found = scan(folder, lambda path, why: refused.append(why))
    except WeightsError as error:
        raise WeightsError(f"{error}; weights of {preset.name} go there, or name their folder with --weights DIR") from error

    def pick(numbers, role: str, kind: str = "", expert: str = "") -> Identity | None:
        size = size_text(size_of(numbers))
        return next((identity for identity in found if identity.role == role and identity.size == size
                     and (not kind or identity.kind == kind) and (not expert or identity.expert == expert)), None)

    networks = {name: pick(preset.dit, "dit", mode, name.partition(" ")[2])
                for mode in ("turbo", "full") for name in network_names(preset, mode)}
    vae, text = pick(preset.vae, "vae"), pick(preset.umt5, "text_encoder")
    tokenizer = next((path for pattern in (TOKENIZER, f"*/{TOKENIZER}", f"*/*/{TOKENIZER}") for path in sorted(folder.glob(pattern))), None)
    needed = {**{f"{name} network": networks[name] for name in network_names(preset, "turbo")}, "video autoencoder": vae,
              "text encoder": text, TOKENIZER: tokenizer}
    if missing := [name for name, part in needed.items() if part is None]:
        seen = "; ".join([*map(str, found), *refused]) or "no checkpoint"
        raise WeightsError(f"{folder}: expected the {', '.join(missing)} of {preset.name}, found {seen}; "
                           "put them there, or name another folder with --weights DIR")
    if any(networks[name] is None for name in network_names(preset, "full")):
        networks = {name: networks[name] for name in network_names(preset, "turbo")}
    return WanFiles(networks, vae, text, tokenizer, None if preset.tiny_vae is None else pick(tiny_numbers(preset), "tiny_decoder"))
