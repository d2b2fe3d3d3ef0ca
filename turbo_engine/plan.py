"""How a preset's models share a device's memory: what stays, what comes and goes. Chosen from the numbers, before loading.

    python -m turbo_engine.plan [--vram 24]
"""
import argparse
from dataclasses import dataclass

from turbo_engine.errors import TurboError
from turbo_engine.presets import Preset, list_presets, load_preset
from turbo_engine.weights.architecture import elements

RESERVE = 1 << 30            # bytes: context, libraries, fragments
GIB = 1 << 30


@dataclass(frozen=True)
class MemoryPlan:
    """networks: how many stay on the device at once, of turbo and full, two each with experts. text: where the encoder waits,
    "device" or "host". text_8bit: its weights in 8 bits. tile: of the autoencoder in latent pixels, None for whole pictures.
    needed: bytes at the worst moment. line: the plan in words.
    """

    networks: int
    text: str
    text_8bit: bool
    tile: int | None
    needed: int
    line: str


ALL_STAYS = MemoryPlan(4, "device", False, None, 0, "")
"""On a CPU, where everything lies in one memory."""


def plans(preset: Preset) -> list[MemoryPlan]:
    """Every way to run a Wan preset in bfloat16, the fastest first."""
    experts = 1 if preset.experts is None else 2
    network = 2 * elements(preset.dit, sla=True)
    table = 2 * preset.umt5.vocab_size * preset.umt5.dim                 # in host memory always
    text = 2 * elements(preset.umt5) - table
    vae, clip = 2 * elements(preset.vae), preset.clip
    pixels = max(width * height for width, height in clip.menu)
    tokens = pixels // 256 * (clip.max_num_frames // 4 + 1)
    denoising = tokens * (preset.dit.dim * 28 + preset.dit.ffn_dim * 2) * 2      # a guided step is a batch of two
    denoising += 2 * 4 * preset.dit.num_layers * preset.text.text_len * preset.dit.dim
    result = []
    ways = ((2 * experts, "device", False, None), (2 * experts, "host", False, None), (experts, "device", False, None),
            (experts, "host", False, None), (1, "host", False, None), (1, "host", True, None), (1, "host", True, 32))
    for count, where, text_8bit, tile in dict.fromkeys(ways):            # without experts two of them are one
        own_text = text // 2 if text_8bit else text
        decoding = pixels * 96 * 2 * 4 * 5 if tile is None else (8 * tile) ** 2 * 96 * 2 * 4 * 5 + pixels * clip.max_num_frames * 12
        busiest = max(denoising, decoding)
        if where == "device":
            needed = count * network + own_text + busiest
        elif count > 1:
            needed = count * network + max(busiest, own_text)
        else:                                                            # the network makes room for the text encoder
            needed = max(network + busiest, own_text)
        words = ("turbo and full stay" if count == 2 * experts else "turbo or full at a time" if count == experts else "one expert at a time",
                 "text encoder stays" if where == "device" else f"text encoder comes for each new prompt{' in 8 bits' if text_8bit else ''}",
                 "decoding in tiles" if tile else "")
        result.append(MemoryPlan(count, where, text_8bit, tile, needed + vae + RESERVE, ", ".join(filter(None, words))))
    return result


def choose(preset: Preset, free: int) -> MemoryPlan:
    """The fastest plan that fits into `free` bytes. Raises: TurboError with the numbers."""
    ways = plans(preset)
    for plan in ways:
        if plan.needed <= free:
            return plan
    least = min(ways, key=lambda plan: plan.needed)
    raise TurboError(f"memory: expected {least.needed / GIB:.1f} GiB for {preset.name} ({least.line}), found {free / GIB:.1f} free; "
                     "close other programs that use the GPU, or choose a smaller preset")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m turbo_engine.plan", description="How each preset would use a GPU's memory.")
    parser.add_argument("--vram", type=float, nargs="*", default=[8, 12, 16, 24, 48, 80], help="GiB of free memory")
    sizes = parser.parse_args().vram
    for name in list_presets():
        preset = load_preset(name)
        if preset.files is None:
            continue
        for size in sizes:
            try:
                plan = choose(preset, int(size * GIB))
                print(f"{name:24} {size:4g} GiB  {plan.needed / GIB:5.1f} needed  {plan.line}")
            except TurboError as error:
                print(f"{name:24} {size:4g} GiB  no: {str(error).partition(', found')[0].partition('expected ')[2]}")


if __name__ == "__main__":
    main()
