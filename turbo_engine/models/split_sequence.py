"""One clip over several devices: each works on its share of the tokens, and for self-attention on its share of the heads.

A token's own work (products, norms, the look at the text) needs no other token; attention needs all tokens but one head at a time. So q, k and v
change hands before it and its output after it, two exchanges a block. Source: Jacobs et al. 2023, arXiv:2309.14509 (Ulysses).
"""
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

    def to_heads(self, qkv: tuple[Tensor, Tensor, Tensor], shares: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [B, H, L share, D] of all heads -> [B, H share, L, D] of all tokens."""
        batch, heads, mine, head_dim = qkv[0].shape
        sent = qkv[0].new_empty(self.size, mine, batch, 3, heads // self.size, head_dim)
        for i, x in enumerate(qkv):                                               # the only copy
            sent[:, :, :, i] = x.unflatten(1, (self.size, -1)).permute(1, 3, 0, 2, 4)
        got = sent.new_empty(sum(shares), *sent.shape[2:])
        dist.all_to_all_single(got, sent.flatten(0, 1), shares, [mine] * self.size, group=self.group)
        return got.permute(2, 1, 3, 0, 4).unbind(0)

    def to_tokens(self, o: Tensor, shares: list[int]) -> Tensor:
        """o [B, H share, L, D] -> [B, H, L share, D], laid out as [B, L share, H, D]."""
        mine, sent = shares[self.rank], o.permute(2, 0, 1, 3).contiguous()        # [L, B, H', D]
        got = o.new_empty(self.size * mine, *sent.shape[1:])
        dist.all_to_all_single(got, sent, [mine] * self.size, shares, group=self.group)
        return got.unflatten(0, (self.size, mine)).permute(2, 1, 0, 3, 4).flatten(2, 3).transpose(1, 2)


class SplitAttention(nn.Module):
    """Self-attention over a sequence that lies split: `attention` sees all tokens of some heads."""

    def __init__(self, attention: nn.Module | None, split: SplitSequence):
        super().__init__()
        self.attention, self.split = attention, split

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = self.split.shares(self.split.tokens)
        o = (self.attention or fused_attention)(*self.split.to_heads((q, k, v), shares))
        return self.split.to_tokens(o, shares)


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
