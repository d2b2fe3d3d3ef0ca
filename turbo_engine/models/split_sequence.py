"""One clip over several devices: each works on its share of the tokens, and for self-attention on its share of the heads.

A token's own work (products, norms, the look at the text) needs no other token; attention needs all tokens but one head at a time. So q, k and v
change hands before it and its output after it, two exchanges a block. Source: Jacobs et al. 2023, arXiv:2309.14509 (Ulysses).
"""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from turbo_engine.models.dit import fused_attention
from turbo_engine.models.fused_dit import FusedDiT


class SplitSequence:
    """How a sequence lies over the processes of a group, in the order of their ranks; shares differ by one token at most."""

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.tokens = 0                                               # L of the pass under way

    def shares(self, tokens: int) -> list[int]:
        return [tokens // self.size + (rank < tokens % self.size) for rank in range(self.size)]

    def begin(self, tokens: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """This process's share of tokens [B, L, C] and of their angles [L, D / 2]."""
        self.tokens = tokens.shape[1]
        shares = self.shares(self.tokens)
        return tokens.split(shares, 1)[self.rank], tuple(t.split(shares)[self.rank].contiguous() for t in rope)

    def end(self, x: Tensor) -> Tensor:
        """All shares of x [B, L share, C] as one [B, L, C], on every process."""
        shares = self.shares(self.tokens)
        padded = F.pad(x, (0, 0, 0, max(shares) - x.shape[1])).contiguous()          # not every backend gathers unequal ones
        rooms = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(rooms, padded, group=self.group)
        return torch.cat([room[:, :share] for room, share in zip(rooms, shares)], 1)

    def to_heads(self, qkv: tuple[Tensor, Tensor, Tensor], group: int, groups: int) -> Exchange:
        """q, k, v [B, H, L share, D] of all heads -> [B, H share / groups, L, D] of all tokens, for one group of each process's heads."""
        shares, (batch, heads, mine, head_dim) = self.shares(self.tokens), qkv[0].shape
        sent = qkv[0].new_empty(self.size, mine, batch, 3, heads // self.size // groups, head_dim)
        for i, x in enumerate(qkv):                                               # the only copy
            sent[:, :, :, i] = x.unflatten(1, (self.size, groups, -1))[:, :, group].permute(1, 3, 0, 2, 4)
        got = sent.new_empty(sum(shares), *sent.shape[2:])
        return Exchange(got, dist.all_to_all_single(got, sent.flatten(0, 1), shares, [mine] * self.size, group=self.group, async_op=True))

    def to_tokens(self, o: Tensor) -> Exchange:
        """o [B, H group, L, D] -> [P, L share, B, H group, D], of every process's heads in this group."""
        shares = self.shares(self.tokens)
        mine, sent = shares[self.rank], o.permute(2, 0, 1, 3).contiguous()
        got = o.new_empty(self.size, mine, *sent.shape[1:])
        return Exchange(got, dist.all_to_all_single(got.flatten(0, 1), sent, [mine] * self.size, shares, group=self.group, async_op=True))


class Exchange(NamedTuple):
    """What comes from other processes, while this one works on."""

    got: Tensor
    work: dist.Work

    def wait(self) -> Tensor:
        self.work.wait()
        return self.got


class SplitAttention(nn.Module):
    """Self-attention over a sequence that lies split: `attention` sees all tokens of some heads.

    The heads of a process go in two groups, so that while one is worked on the other one travels.
    """

    def __init__(self, attention: nn.Module | None, split: SplitSequence):
        super().__init__()
        self.attention, self.split = attention or fused_attention, split

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v, and what is returned, [B, H, L share, D]; the latter is laid out as [B, L share, H, D]."""
        groups = 2 if q.shape[1] // self.split.size % 2 == 0 else 1
        coming = [self.split.to_heads((q, k, v), group, groups) for group in range(groups)]
        going = [self.split.to_tokens(self.attention(*exchange.wait().permute(2, 1, 3, 0, 4).unbind(0))) for exchange in coming]
        shape = q.shape[0], q.shape[2], self.split.size, groups, q.shape[1] // self.split.size // groups, q.shape[3]
        o = q.new_empty(shape)                                                    # [B, L share, P, groups, H group, D]
        for group, exchange in enumerate(going):
            o[:, :, :, group] = exchange.wait().permute(2, 1, 0, 3, 4)
        return o.flatten(2, 4).transpose(1, 2)


def split_sequence(network: FusedDiT, group: dist.ProcessGroup | None = None) -> FusedDiT:
    """Have this process do its share of each clip from now on. Every process of the group is called alike and has the whole result.

    Raises: ValueError where the heads cannot be shared out evenly.
    """
    split = SplitSequence(group)
    if network.config.num_heads % split.size:
        raise ValueError(f"processes: expected a divisor of {network.config.num_heads} heads, got {split.size}")
    for block in network.model.blocks:
        block.self_attn.attn_op = SplitAttention(block.self_attn.attn_op, split)
    network.split = split
    return network
