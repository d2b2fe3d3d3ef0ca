"""Grids of launch settings for `triton.autotune`. RUSHES_TUNE=0 takes the first of each: a quick start, and quick tests."""
import os
from itertools import product

import triton


def autotune_configs(num_warps: tuple[int, ...] = (4,), num_stages: tuple[int, ...] = (2,), pre_hook=None,
                     **blocks: tuple[int, ...]) -> list[triton.Config]:
    """Every combination of the given values; only the first with RUSHES_TUNE=0 or TRITON_INTERPRET=1, where there is nothing to time.

    Args: num_warps, num_stages: launch settings to try; blocks: constexpr sizes by name, e.g. BLOCK_C=(512, 1024);
        pre_hook: called before each launch with its arguments by name, to fit descriptors to the blocks.
    """
    return first_or_all(_every(num_warps, num_stages, pre_hook, blocks))


def first_or_all(configs: list[triton.Config]) -> list[triton.Config]:
    """What `autotune_configs` does with RUSHES_TUNE=0, for a list put together by hand."""
    return configs[:1] if triton.knobs.runtime.interpret or _untuned() else configs


def row_options(*, num_stages: dict[bool, tuple[int, ...]], pre_hook=None) -> dict:
    """Arguments of `triton.autotune` for a walk with [BLOCK_M, HEAD_DIM] float32 sums: stages by AHEAD, and warps that hold the sums.

    Four warps have registers for 64 rows of 128 or 128 rows of 64, eight want 128 rows to share. AHEAD wants three stages: with two,
    Triton 3.6 made a walk on eight warps that reads outside its memory (H100, 2026-11-25). Only the first that fits with RUSHES_TUNE=0.
    """
    configs = [c for ahead, stages in num_stages.items() for c in _every((8, 4), stages, pre_hook, {"AHEAD": (ahead,)})]

    def fitting(configs: list[triton.Config], arguments: dict, **constants) -> list[triton.Config]:
        rows, head_dim = ({**arguments, **constants}[name] for name in ("BLOCK_M", "HEAD_DIM"))
        fit = [c for c in configs if (rows >= 128 if c.num_warps == 8 else rows * head_dim < 128 * 128)] or configs
        return fit[:1] if _untuned() else fit

    return {"configs": configs[-1:] if triton.knobs.runtime.interpret else configs, "prune_configs_by": {"early_config_prune": fitting}}


def _every(num_warps: tuple[int, ...], num_stages: tuple[int, ...], pre_hook, blocks: dict[str, tuple]) -> list[triton.Config]:
    return [triton.Config(dict(zip(blocks, sizes)), num_warps=warps, num_stages=stages, pre_hook=pre_hook)
            for *sizes, warps, stages in product(*blocks.values(), num_warps, num_stages)]


def _untuned() -> bool:
    return os.environ.get("RUSHES_TUNE") == "0"


def row_warps(padded: int) -> int:
    """For a program that holds one row of so many channels: 16 a thread, as far as 16 warps go."""
    return min(16, max(1, padded // 512))
