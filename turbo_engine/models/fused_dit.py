"""A DiT at speed: the same network as `dit.DiT`, with one kernel for all that lies between two products, and no host in its way.

`FusedDiT` keeps the order of operations of `DiT`. What it changes: the residual stream may be 16-bit, each norm is computed with the addition
before it and the modulation after it, layers in 8 bits are handed rows that are 8-bit already, and what depends on the
time alone is kept by time. `GraphedDiT` records it as one CUDA graph per shape.
"""
import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import kernels
from turbo_engine.models.dit import Block, DiT, TextContext, fused_attention, patchify, unpatchify, widen
from turbo_engine.recent import Recent

TABLES_KEPT = 16           # times; 5 MB each at 14B


class Tables(NamedTuple):
    """What a step owes to its time. blocks [N, 6, B, C] as shift, 1 + scale, gate of attention and of the feed-forward; head [2, B, C]
    as shift, 1 + scale; timestep [B]. float32. B is 1 where all clips of a batch share their time."""

    blocks: Tensor
    head: Tensor
    timestep: Tensor


class FusedBlock(nn.Module):
    """One block between two norms: it takes the stream and its own first norm's output, and gives the next norm's."""

    def __init__(self, block: Block, backend: str):
        super().__init__()
        self.block, self.backend = block, backend

    @property
    def format(self) -> str | None:
        """What the first layer wants its input rounded to, None for 16 bits."""
        return _format(self.block.self_attn.qkv)

    def forward(self, x: Tensor, h: Tensor | tuple[Tensor, Tensor], mods: Tensor, following: tuple, context: tuple[Tensor, Tensor],
                rope: tuple[Tensor, Tensor]) -> tuple:
        """x [B, L, C] stream; h its norm, [B, L, C] or 8-bit rows; mods [6, B, C]; following: scale, shift, dtype and format of the norm after
        this block. Returns: the new stream and that norm of it."""
        block, eps = self.block, self.block.eps
        attn, cross, (up, _, down) = block.self_attn, block.cross_attn, block.ffn
        _, _, gate1, shift2, scale2, gate2 = mods
        dtype = context[0].dtype

        def add_norm(x, y, gate, scale, shift, dtype, format):
            return kernels.add_norm(x, y, gate, scale, shift, eps=eps, dtype=dtype, format=format, backend=self.backend)

        def heads(x, norm, rope):
            return kernels.norm_rope(x, norm.weight, rope, num_heads=attn.num_heads, eps=norm.eps, backend=self.backend)

        q, k, v = attn.project(h)
        o = (attn.attn_op or fused_attention)(heads(q, attn.norm_q, rope), heads(k, attn.norm_k, rope), attn.heads(v))
        norm3 = (t.expand(len(x), -1) for t in (block.norm3.weight, block.norm3.bias))
        x, h = add_norm(x, attn.o(o.transpose(1, 2).flatten(2)), gate1, *norm3, dtype, _format(cross.q))
        o = fused_attention(heads(cross.q(h), cross.norm_q, None), *context)
        x, h = add_norm(x, cross.o(o.transpose(1, 2).flatten(2)), None, scale2, shift2, dtype, _format(up))
        fuse = getattr(up, "fuse_gelu", False)
        h = up.gelu(h) if fuse else kernels.gelu_rows(up(h), format=_format(down), backend=self.backend)
        return add_norm(x, down(h), gate2, *following)


class FusedDiT(nn.Module):
    """`DiT` on fused kernels, with its interface.

    Args:
        model: with q, k and v of each self-attention stacked (`accelerate.stack_qkv`), its layers in 16 or 8 bits.
        stream: dtype of the residual stream in memory; inside a kernel it is float32.
        backend: of the glue, see `kernels.add_norm`.
    """

    def __init__(self, model: DiT, *, stream: torch.dtype, backend: str = "auto"):
        super().__init__()
        self.model, self.config, self.stream = model, model.config, stream
        self.split = None                           # a `SplitSequence` where several devices share each clip
        self.blocks = nn.ModuleList(FusedBlock(block, backend) for block in model.blocks)
        self._tables: Recent[tuple[float, ...], Tables] = Recent(TABLES_KEPT)

    def embed_text(self, text: Tensor) -> TextContext:
        return self.model.embed_text(text)

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor | TextContext, *, condition: Tensor | None = None) -> Tensor:
        """As `DiT.forward`. A timestep on the CPU is looked up; one on the device has to be fetched first."""
        context = self.embed_text(text) if isinstance(text, Tensor) else text
        return self.run(latent, self.tables(timestep), context, condition)

    def tables(self, timestep: Tensor) -> Tables:
        """What this step owes to its time, from the last few times where it is known. timestep [B]."""
        times = tuple(timestep.tolist())
        times = times[:1] if len(set(times)) == 1 else times
        return self._tables.get(times, lambda: self._make_tables(timestep[:len(times)]))

    def _make_tables(self, timestep: Tensor) -> Tables:
        model = self.model
        timestep = timestep.to(model.patch_embedding.weight.device)
        time = model.embed_time(timestep)                                                      # [B, C]
        own = torch.stack([widen(block.modulation) for block in model.blocks])                 # [N, 1, 6, C]
        blocks = (own + model.time_projection(time).unflatten(-1, (6, -1))).transpose(1, 2).contiguous()
        blocks[:, [1, 4]] += 1
        head = (widen(model.head.modulation) + time[:, None]).transpose(0, 1).contiguous()
        head[1] += 1
        return Tables(blocks, head, timestep)

    def run(self, latent: Tensor, tables: Tables, context: TextContext, condition: Tensor | None) -> Tensor:
        """The velocity; nothing here waits for the device or depends on values on it."""
        model, batch, dtype = self.model, len(latent), self.model.patch_embedding.weight.dtype
        tokens, grid = patchify(model.with_condition(latent, condition).to(dtype), self.config.patch_size)
        rope = model.rope(grid, latent.device)
        if self.split is not None:
            tokens, rope = self.split.begin(tokens, rope)
        x = model.patch_embedding(tokens).to(self.stream)
        mods, head = (t.expand(*t.shape[:-2], batch, -1) for t in (tables.blocks, tables.head))
        if model.text_modulation is not None:
            mods = mods + context[-1][0].transpose(0, 1)
        norms = [(mods[i, 1], mods[i, 0], dtype, block.format) for i, block in enumerate(self.blocks)]
        norms.append((head[1], head[0], torch.float32, None))
        scale, shift, *kind = norms[0]
        _, h = kernels.add_norm(x, None, None, scale, shift, eps=self.blocks[0].block.eps, dtype=kind[0], format=kind[1],
                                backend=self.blocks[0].backend)
        for block, mod, following, pair in zip(self.blocks, mods, norms[1:], context):
            x, h = block(x, h, mod, following, pair, rope)
        output = model.head.head(h)
        output = unpatchify(output if self.split is None else self.split.end(output), grid, self.config.patch_size)
        return model.velocity(output, latent, tables.timestep)


class GraphedDiT(nn.Module):
    """A `FusedDiT` recorded once for each shape, then replayed: the host starts one graph where it started some 20 kernels a block.

    Recording runs the network three times at that shape. Graphs share one pool of memory: only one runs at a time.
    """

    def __init__(self, network: FusedDiT):
        super().__init__()
        self.network, self.config = network, network.config
        self._recorded: dict[tuple, _Recorded] = {}
        self._prompts: dict[torch.Size, _Prompt] = {}
        self._pool = None

    @property
    def blocks(self) -> nn.ModuleList:
        """Called while recording only: hooks on them do not see a replay."""
        return self.network.blocks

    def embed_text(self, text: Tensor) -> TextContext:
        return self.network.embed_text(text)

    def forget(self) -> None:
        """Give back every graph and what it read and wrote. The next call records its own again."""
        self._recorded.clear()
        self._prompts.clear()
        self._pool = None

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor | TextContext, *, condition: Tensor | None = None) -> Tensor:
        """As `FusedDiT.forward`."""
        context = self.embed_text(text) if isinstance(text, Tensor) else text
        tables, size = self.network.tables(timestep), context[0][0].shape
        if size not in self._prompts:
            self._prompts[size] = _Prompt(context)
        self._prompts[size].hold(context)
        shape = latent.shape, tables.timestep.shape, size, None if condition is None else condition.shape
        if shape not in self._recorded:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._recorded[shape] = _Recorded(self.network, self._pool, latent, tables, self._prompts[size].context, condition)
        return self._recorded[shape](latent, tables, condition)


def forget_graphs(networks: Iterable[nn.Module]) -> None:
    """`GraphedDiT.forget` of those that have any."""
    for network in networks:
        if isinstance(network, GraphedDiT):
            network.forget()


class _Prompt:
    """What graphs read of a prompt, and whose it is now."""

    def __init__(self, context: TextContext):
        self.context = [tuple(t.clone() for t in part) for part in context]
        self._holds = context

    def hold(self, context: TextContext) -> None:
        if context is not self._holds:
            torch._foreach_copy_([t for part in self.context for t in part], [t for part in context for t in part])
            self._holds = context


class _Recorded:
    """One graph with the tensors that it reads and writes."""

    def __init__(self, network: FusedDiT, pool, latent: Tensor, tables: Tables, context: TextContext, condition: Tensor | None):
        self._latent, self._condition = latent.clone(), None if condition is None else condition.clone()
        self._tables = Tables(*(t.clone() for t in tables))
        arguments = self._latent, self._tables, context, self._condition
        stream = _first_stream(latent.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):                           # what is compiled or measured at first use is not recorded
            for _ in range(2):
                network.run(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._velocity = network.run(*arguments)

    def __call__(self, latent: Tensor, tables: Tables, condition: Tensor | None) -> Tensor:
        self._latent.copy_(latent)
        torch._foreach_copy_(list(self._tables), list(tables))
        if condition is not None:
            self._condition.copy_(condition)
        self._graph.replay()
        return self._velocity.clone()


@functools.cache
def _first_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps 32 MiB for every stream that it ever ran on."""
    return torch.cuda.Stream(device)


def _format(layer: nn.Module) -> str | None:
    return getattr(layer, "format", None)
