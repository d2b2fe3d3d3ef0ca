"""Where the 8-bit kernels part from their torch emulation on this GPU: rounding, products, attention, each by variants.

    python -m bench.diagnose_8bit

One line a case. Nothing is timed.
"""
import sys
import traceback
import warnings

import torch
import triton
import triton.language as tl

import kernels
from bench.report import gpu_facts, relative_error
from kernels.formats import FORMATS, LARGEST, quantize_reference
from kernels.sage import launch as sage
from kernels.sage import reference as sage_reference
from kernels.w8a8 import launch as w8a8


@triton.jit
def _round_rows(x, x8, width, LARGEST: tl.constexpr, EXACT: tl.constexpr, WIDTH: tl.constexpr):
    from_row = tl.program_id(0).to(tl.int64) * width
    cols = tl.arange(0, WIDTH)
    tile = tl.load(x + from_row + cols, mask=cols < width, other=0.0).to(tl.float32)
    amax = tl.max(tl.abs(tile), 0)
    grow = tl.div_rn(LARGEST, amax) if EXACT else LARGEST / amax
    tile = tile * grow
    if x8.dtype.element_ty == tl.int8:
        tile = (tile + 12582912.0) - 12582912.0
    tl.store(x8 + from_row + cols, tile.to(x8.dtype.element_ty), mask=cols < width)


@triton.jit
def _cast(x, x8, WIDTH: tl.constexpr):
    cols = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    tl.store(x8 + cols, tl.load(x + cols).to(x8.dtype.element_ty))


@triton.jit
def _dot(a, b, c, K: tl.constexpr, SHORT: tl.constexpr):
    """c [128, 128] = a [128, K] b [128, K]^T in one dot, sums leaving the matrix unit every SHORT products."""
    rows, ks = tl.arange(0, 128), tl.arange(0, K)
    x = tl.load(a + rows[:, None] * K + ks[None, :])
    y = tl.load(b + rows[:, None] * K + ks[None, :])
    out = tl.dot(x, tl.trans(y), max_num_imprecise_acc=SHORT)
    tl.store(c + rows[:, None] * 128 + rows[None, :], out)


def rounding() -> None:
    every = torch.arange(2 ** 16, dtype=torch.int32, device="cuda").to(torch.int16).view(torch.bfloat16).float()
    every = every[every.abs() <= 448]
    every = torch.cat((every, every * (1 + 2 ** -20), every * (1 - 2 ** -20)))
    every = every[:len(every) // 1024 * 1024].contiguous()
    x8 = torch.empty(len(every), dtype=torch.float8_e4m3fn, device="cuda")
    _cast[len(every) // 1024,](every, x8, WIDTH=1024)
    print(f"cast float32 -> e4m3, all bf16 numbers and their neighbours: {(x8.float() != every.to(x8.dtype).float()).sum().item()} "
          f"of {len(every)} differ from torch", flush=True)
    for format in FORMATS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for shape in ((1, 63), (3000, 1536), (70, 13824)):
                x = torch.randn(shape, device="cuda").to(dtype)
                truth = kernels.quantize_rows(x, format=format, backend="torch")[0].float()
                found = {"kernel": kernels.quantize_rows(x, format=format)[0]}
                for name, exact, fused in (("exact fused", True, True), ("fast fused", False, True), ("fast unfused", False, False)):
                    found[name] = torch.empty(shape, dtype=FORMATS[format], device="cuda")
                    _round_rows[shape[0],](x, found[name], shape[1], LARGEST=LARGEST[FORMATS[format]], EXACT=exact,
                                           WIDTH=triton.next_power_of_2(shape[1]), enable_fp_fusion=fused)
                print(f"rounding {format} {str(dtype)[6:]} {shape}: share that differs: "
                      + ", ".join(f"{name} {(y.float() != truth).float().mean().item():.2e}" for name, y in found.items()), flush=True)


def products() -> None:
    for format in FORMATS:
        for rows, outs, width in ((1, 16, 64), (1, 16, 128), (1, 16, 256), (17, 16, 64), (128, 128, 64), (1000, 1536, 8960)):
            generator = torch.Generator().manual_seed(rows)
            x, weight, bias = (torch.randn(*s, generator=generator).cuda() for s in ((rows, width), (outs, width), (outs,)))
            arguments = (*kernels.quantize_rows(x, format=format, backend="torch"), *kernels.quantize_rows(weight, format=format, backend="torch"), bias)
            truth = kernels.linear8(*arguments, dtype=torch.float64, backend="torch")
            for tma in (True, False):
                line = []
                for dtype in (torch.float32, torch.bfloat16, torch.float16):
                    y = w8a8.linear8(*arguments, dtype, tma=tma)
                    own = relative_error(truth.to(dtype), truth)
                    line.append(f"{str(dtype)[6:]} {relative_error(y, truth):.2e} (rounding alone {own:.2e})")
                print(f"products {format} {rows}x{outs}x{width} tma={tma}: " + ", ".join(line), flush=True)
                if not relative_error(y, truth) < 1e-2:
                    print("    ", y[0, :6].tolist(), "expected", truth[0, :6].tolist(), flush=True)


def short_sums(a, b, bits: int, group: int = 32):
    """a b^T as a unit that adds `group` products and the sum so far at the largest's exponent, cut off after so many bits."""
    acc = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], group):
        terms = torch.cat((a[:, None, start:start + group].double() * b[None, :, start:start + group].double(), acc[..., None]), -1)
        step = torch.exp2(torch.frexp(terms.abs().amax(-1, keepdim=True))[1].double() - 1 - bits)
        acc = ((terms / step).trunc() * step).sum(-1)
    return acc


def sums() -> None:
    for width in (32, 64, 128):
        for wide in (False, True):
            a, b = torch.randn(128, width, device="cuda"), torch.randn(128, width, device="cuda")
            if wide:                                   # as softmax weights are: positive, over many powers of two
                a = torch.exp2(3 * a)
            a, b = (quantize_reference(x, x.abs().amax(-1, keepdim=True), torch.float8_e4m3fn)[0] for x in (a, b))
            truth = a.double() @ b.double().t()
            line = []
            for short in (32, 64, 128):
                if short <= width:
                    c = torch.empty(128, 128, device="cuda")
                    _dot[1,](a, b, c, K=width, SHORT=short, num_warps=4)
                    line.append(f"every {short} {relative_error(c, truth):.2e}")
                    if short == width:
                        line += [f"{bits} bits {relative_error(short_sums(a.float(), b.float(), bits), truth):.2e} "
                                 f"(to the kernel's {relative_error(short_sums(a.float(), b.float(), bits), c):.2e})" for bits in (12, 13, 14, 15)]
            print(f"e4m3 sums of {width} {'weights' if wide else 'gaussian'}: error by how often sums leave the unit: " + ", ".join(line), flush=True)


def attention() -> None:
    for qk in FORMATS:
        for pv in ("fp8", "16"):
            for length, key_length, head_dim, dtype in ((130, 257, 64, torch.bfloat16), (1000, 512, 128, torch.bfloat16),
                                                        (1000, 4096, 128, torch.bfloat16), (1000, 4096, 128, torch.float32)):
                generator = torch.Generator().manual_seed(length)
                q, k, v = (torch.randn(1, n, 2, head_dim, generator=generator) for n in (length, key_length, key_length))
                k = k + 2 * torch.randn(head_dim, generator=generator)
                q, k, v = (x.transpose(1, 2).to("cuda", dtype) for x in (q, k, v))
                truth = sage_reference.sage_attention_reference(q.float(), k.float(), v if pv == "16" else v.float(), qk, pv)
                line = []
                for tma, permute in ((True, True), (True, False), (False, False)):
                    if pv == "16" and (permute or tma and dtype == torch.float32):
                        continue
                    o = sage.sage_attention(q, k, v, qk, pv, tma=tma, permute=permute)
                    line.append(f"tma={tma:d} permute={permute:d} {relative_error(o, truth):.2e}")
                q8 = sage.quantize_queries(q, qk)[0][:, :, :length]
                k8, k_scale, v8, v_scale = sage.quantize_keys_values(k, v, qk, pv, False)
                r8, r_scale = sage_reference.quantize_keys(k, qk)
                line.append(f"q8 differ {(q8.float() != sage_reference.quantize_queries(q, qk)[0].float()).float().mean().item():.1e}")
                line.append(f"k8 {(k8[:, :, :key_length].float() != r8.float()).float().mean().item():.1e}")
                if pv == "fp8":
                    truth8 = sage_reference.quantize_values(v)[0].transpose(-1, -2).float()
                    line.append(f"v8 {(v8[..., :key_length].float() != truth8).float().mean().item():.1e}")
                # the walk alone: inputs rounded by torch
                padded = (-length % 128, -key_length % 128)
                rq, rq_scale = sage_reference.quantize_queries(q, qk)
                rq = torch.nn.functional.pad(rq.float(), (0, 0, 0, padded[0])).to(rq.dtype)
                rk = torch.nn.functional.pad(r8.float(), (0, 0, 0, padded[1])).to(r8.dtype)
                rv, rv_scale = sage_reference.quantize_values(v)
                rv = torch.nn.functional.pad(rv.float(), (0, 0, 0, padded[1])).to(rv.dtype).transpose(-1, -2).contiguous()
                if pv == "16":
                    rv, rv_scale = v8, v_scale
                o = sage.attend(q, rq, torch.nn.functional.pad(rq_scale, (0, padded[0])).contiguous(), rk, r_scale.contiguous(), rv, rv_scale, v,
                                False, False)
                line.append(f"walk alone {relative_error(o, truth):.2e}")
                line.append(f"emulation in {str(dtype)[6:]} {relative_error(truth.to(dtype), truth):.2e}")
                print(f"attention qk={qk} pv={pv} {length}x{key_length}x{head_dim} {str(dtype)[6:]}: " + ", ".join(line), flush=True)


def main() -> int:
    if not torch.cuda.is_available():
        print("diagnose_8bit.py needs a CUDA device", file=sys.stderr)
        return 2
    print(torch.__version__, gpu_facts(), flush=True)
    for part in (products, rounding, sums, attention):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                part()
            except Exception:
                traceback.print_exc(file=sys.stdout)
        for warning in caught:
            print(f"warned: {warning.category.__name__}: {str(warning.message)[:300]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
