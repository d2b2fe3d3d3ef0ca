"""Rounding to 8 bits inside a Triton kernel."""
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
_HALVES = tl.constexpr(12582912.0)          # 1.5 * 2 ** 23: float32 numbers of this size are whole


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """x, float32 and within the range of dtype (int8 or e4m3), rounded to the nearest number that dtype has, ties to even.

    The interpreter's own cast to e4m3 drops bits, so there the rounding comes first: adding and taking away a number whose
    last bit is worth one step of x's binade.
    """
    if dtype == tl.int8:
        x = (x + _HALVES) - _HALVES
    elif INTERPRETED:
        power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        big = tl.maximum(power, 0.015625) * (_HALVES / 8)
        x = (x + big) - big
    return x.to(dtype)


@triton.jit
def gelu(x):
    """GELU, tanh form: (1 + tanh(u)) / 2 = 1 / (1 + 2 ** -(2 u log2 e)), with u = sqrt(2 / pi) (x + 0.044715 x ** 3)."""
    power = x * (2.302208198 + 0.1029432397 * x * x)
    return x / (1.0 + tl.exp2(tl.minimum(-power, 120.0)))       # a sum that stays finite


@triton.jit
def quick_gelu(x):
    """`gelu` off by 5e-4 x at most: one instruction's tanh in place of an exponential and a division. For results in e4m3."""
    u = x * (0.7978845608 + 0.0356774081 * x * x)
    if INTERPRETED:
        tanh = 2.0 / (1.0 + tl.exp2(tl.minimum(-2.885390082 * u, 120.0))) - 1.0
    else:
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1)
    half = 0.5 * x
    return half * tanh + half


@triton.jit
def store_row(h, out, out_scale, row, cols, width, LARGEST: tl.constexpr, SMALLEST_AMAX: tl.constexpr):
    """One row, float32 and zero past the width, as it is or, with LARGEST, rounded to 8 bits with its scale.

    Divisions are rounded as torch rounds them: rows of few bits (bf16) often lie exactly half-way between two 8-bit numbers.
    """
    if LARGEST > 0:
        amax = tl.maximum(tl.max(tl.abs(h), 0), SMALLEST_AMAX)
        tl.store(out_scale + row, tl.div_rn(amax, LARGEST))
        tl.store(out + row * width + cols, narrow(h * tl.div_rn(LARGEST, amax), out.dtype.element_ty), mask=cols < width)
    else:
        tl.store(out + row * width + cols, h.to(out.dtype.element_ty), mask=cols < width)
