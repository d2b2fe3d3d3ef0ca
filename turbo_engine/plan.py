"""How a preset's models share a device's memory: what stays, what comes and goes. Chosen from the numbers, before loading.

    python -m turbo_engine.plan [--vram 24]
"""
import argparse
from dataclasses import dataclass
from pathlib import Path

from turbo_engine.errors import TurboError
from turbo_engine.presets import Preset, list_presets, load_preset
from turbo_engine.types import MODES
from turbo_engine.weights.architecture import elements, is_block_linear, shapes_of_numbers

RESERVE = 1 << 30            # bytes: context, libraries, fragments
VAE_BYTES = 96 * 2 * 54      # a pixel: what Wan's autoencoder holds of 96 channels in bf16 while it works, its history included: counted 49,
                             # and 8.6 GiB at 720p on an H100
PINNED = 1.35                # torch rounds memory that is pinned up to powers of two: umT5's feed-forward layers by half
PROMPTS = 1 << 30            # bytes of keys and values of prompts kept where there is room
GIB = 1 << 30
SIZES = [8, 12, 16, 24, 48, 80]


@dataclass(frozen=True)
class MemoryPlan:
    """networks: how many stay on the device at once, of turbo and full, two each with experts. eight_bit: their linear layers in 8
    bits, also where the files have more. text: where the encoder waits, "device" or "host". text_8bit: its weights in 8 bits.
    make_room: networks leave while a new prompt is read. prompts: bytes of what networks keep of prompts. tile: of the autoencoder
    in latent pixels, None for whole pictures. graphs: turbo steps as CUDA graphs, which keep what they work in. needed: bytes at the worst moment. line: the plan in words.
    """

    networks: int
    eight_bit: bool
    text: str
    text_8bit: bool
    make_room: bool
    prompts: int
    tile: int | None
    graphs: bool
    needed: int
    line: str


ALL_STAYS = MemoryPlan(4, False, "device", False, False, PROMPTS, None, False, 0, "")
"""On a CPU, where everything lies in one memory."""


def network_bytes(preset: Preset, *, eight_bit: bool) -> int:
    """One network in bfloat16, or with the linear layers of its blocks in int8."""
    shapes = shapes_of_numbers(preset.dit, sla=True)
    saved = sum(shape[0] * (shape[1] - 4) for key, shape in shapes.items() if is_block_linear(key)) if eight_bit else 0
    return 2 * elements(preset.dit, sla=True) - saved


def plans(preset: Preset, *, packed: frozenset[str] = frozenset(), modes: tuple[str, ...] = MODES) -> list[MemoryPlan]:
    """Every way to run a Wan preset in bfloat16, the fastest first. modes: those there are networks for; packed: of these, the ones
    whose files are int8."""
    experts = 1 if preset.experts is None else 2
    table = 2 * preset.umt5.vocab_size * preset.umt5.dim                 # in host memory always
    whole_text = 2 * elements(preset.umt5) - table
    vae, clip = 2 * elements(preset.vae), preset.clip
    pixels = max(width * height for width, height in clip.menu)
    tokens = pixels // 256 * (clip.max_num_frames // 4 + 1)
    prompt = 2 * 2 * preset.dit.num_layers * preset.text.text_len * preset.dit.dim     # keys and values, one network's
    denoising = tokens * max(28 * preset.dit.dim, 12 * preset.dit.dim + 4 * preset.dit.ffn_dim)      # bytes of a block in its attention, its ffn
    result = []
    for count, eight_bit, where, text_8bit, make_room, tile in _ways(experts):
        sizes = [network_bytes(preset, eight_bit=eight_bit or mode in packed) for mode in modes]
        networks = experts * sum(sizes) if count == 2 * experts else count * max(sizes)
        text = whole_text // 2 if text_8bit else whole_text
        decoding = VAE_BYTES * pixels if tile is None else VAE_BYTES * (8 * tile) ** 2 + pixels * clip.max_num_frames * 12
        encoding = decoding + pixels * clip.max_num_frames * 36 if preset.takes_image else 0         # the clip's frames in float32, three times
        prompts = max(PROMPTS, 4 * experts * prompt) if count > 1 or where == "device" else 2 * prompt
        graphs = count == 2 * experts
        busiest = max(denoising, decoding, encoding) + (experts * denoising if graphs else 0)
        if where == "device":
            needed = networks + text + busiest
        elif make_room:
            needed = max(networks + busiest, text)
        else:
            needed = networks + max(busiest, text)
        together = "all networks stay" if count == 2 * experts else "one network at a time" if count == 1 else "two networks at a time"
        words = (together, "8-bit weights" if eight_bit else "",
                 "text encoder stays" if where == "device" else f"text encoder comes{' in 8 bits' if text_8bit else ''} for each new prompt"
                 f"{' in place of the network' if make_room else ''}",
                 "decoding in tiles" if tile else "")
        result.append(MemoryPlan(count, eight_bit, where, text_8bit, make_room, prompts, tile, graphs, needed + prompts + vae + RESERVE,
                                 ", ".join(filter(None, words))))
    return result


def _ways(experts: int) -> list[tuple[int, bool, str, bool, bool, int | None]]:
    """networks, eight_bit, text, text_8bit, make_room, tile; without experts some are one. A rounded prompt or weight comes before
    a wait at each clip."""
    both, each = 2 * experts, experts
    return list(dict.fromkeys((
        (both, False, "device", False, False, None), (both, False, "host", False, False, None), (both, False, "host", True, False, None),
        (each, False, "device", False, False, None), (each, False, "host", False, False, None), (each, False, "host", True, False, None),
        (each, True, "host", False, False, None), (each, True, "host", True, False, None),
        (1, False, "host", False, False, None), (1, False, "host", True, False, None), (1, False, "host", False, True, None),
        (1, True, "host", True, False, None), (1, True, "host", False, True, None), (1, True, "host", True, True, None),
        (1, True, "host", True, True, 32))))


def choose(preset: Preset, free: int, *, packed: frozenset[str] = frozenset(), modes: tuple[str, ...] = MODES) -> MemoryPlan:
    """The fastest plan that fits into `free` bytes. packed, modes: as `plans`. Raises: TurboError with the numbers."""
    ways = plans(preset, packed=packed, modes=modes)
    for plan in ways:
        if plan.needed <= free:
            return plan
    least = min(ways, key=lambda plan: plan.needed)
    raise TurboError(f"memory: expected {least.needed / GIB:.1f} GiB for {preset.name} ({least.line}), found {free / GIB:.1f} free; "
                     "close other programs that use the GPU, or choose a smaller preset")


def host_bytes(preset: Preset, plan: MemoryPlan, *, gpu: bool, modes: tuple[str, ...] = MODES) -> int:
    """Of host memory that stays taken: the table of words and what waits there; on a CPU everything, in float32."""
    words = preset.umt5.vocab_size * preset.umt5.dim
    encoder = elements(preset.umt5) - words
    if gpu:
        waiting = 0 if plan.text == "device" else encoder if plan.text_8bit else 2 * encoder
        return 2 * words + int(PINNED * waiting) + GIB
    experts = (1 if preset.experts is None else 2) * len(modes)
    return 4 * (words + encoder + experts * elements(preset.dit, sla=True) + elements(preset.vae)) + GIB


def host_free(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this machine can still give, None where nobody tells."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def check_host(preset: Preset, plan: MemoryPlan, *, gpu: bool, modes: tuple[str, ...] = MODES, free: int | None) -> None:
    """Raises: TurboError where host memory is too small for the plan, before the system ends the engine for it."""
    needed = host_bytes(preset, plan, gpu=gpu, modes=modes)
    if free is not None and needed > free:
        way = "close other programs" if gpu else "this preset is made for a GPU; close other programs, or choose pocket"
        raise TurboError(f"memory: expected {needed / GIB:.1f} GiB of host memory for {preset.name}{'' if gpu else ' on a CPU'}, found "
                         f"{free / GIB:.1f} free; {way}")


def table(sizes: list[float]) -> list[str]:
    """What `choose` says for each Wan preset and size in GiB, as lines of Markdown."""
    presets = [preset for name in list_presets() if (preset := load_preset(name)).files is not None]
    lines = [f"| free GiB | {' | '.join(preset.name for preset in presets)} |", "| --- " * (len(presets) + 1) + "|"]
    for size in sizes:
        cells = []
        for preset in presets:
            try:
                cells.append(choose(preset, int(size * GIB)).line)
            except TurboError:
                cells.append(f"no, {min(plan.needed for plan in plans(preset)) / GIB:.1f} needed")
        lines.append(f"| {size:g} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m turbo_engine.plan", description="How each preset would use a GPU's memory.")
    parser.add_argument("--vram", type=float, nargs="*", default=SIZES, help="GiB of free memory")
    print("\n".join(table(parser.parse_args().vram)))


if __name__ == "__main__":
    main()
