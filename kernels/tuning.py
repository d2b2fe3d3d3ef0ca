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
    return first_or_all([
        triton.Config(dict(zip(blocks, sizes)), num_warps=warps, num_stages=stages, pre_hook=pre_hook)
        for *sizes, warps, stages in product(*blocks.values(), num_warps, num_stages)
    ])


def first_or_all(configs: list[triton.Config]) -> list[triton.Config]:
    """What `autotune_configs` does with RUSHES_TUNE=0, for a list put together by hand."""
    return configs[:1] if triton.knobs.runtime.interpret or os.environ.get("RUSHES_TUNE") == "0" else configs


def row_warps(padded: int) -> int:
    """For a program that holds one row of so many channels: 16 a thread, as far as 16 warps go."""
    return min(16, max(1, padded // 512))
