"""A formula as a loop in C++: one pass over memory at the speed of memory.

The formula is called once with expressions in place of numbers, which write down what is done to them. Around
it stands what a compiler does not add and a loop bound by memory wants: blocks short enough to be unrolled,
lines asked for ahead in every stream, and 16-bit copies written past the cache, which spares reading what is
replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mainspring.optim.update import Formula, Numbers

_TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "_Float16"}


@dataclass(frozen=True)
class Expression:
    """A value in the loop: a name, and the lines that make it and all others."""

    name: str
    lines: list[str]

    def __add__(self, other: Expression) -> Expression:
        return self._new(f"{self.name} + {other.name}")

    def __sub__(self, other: Expression) -> Expression:
        return self._new(f"{self.name} - {other.name}")

    def __mul__(self, other: Expression) -> Expression:
        return self._new(f"{self.name} * {other.name}")

    def __truediv__(self, other: Expression) -> Expression:
        return self._new(f"{self.name} / {other.name}")

    def sqrt(self) -> Expression:
        """Square root."""
        return self._new(f"std::sqrt( {self.name} )")

    def abs(self) -> Expression:
        """Absolute value."""
        return self._new(f"std::fabs( {self.name} )")

    def maximum(self, other: Expression) -> Expression:
        """The larger of two; what is not a number stays so."""
        a, b = self.name, other.name
        return self._new(f"( {a} > {b} || {a} != {a} ) ? {a} : {b}")

    def _new(self, value: str) -> Expression:
        name = f"x{len(self.lines)}"
        self.lines.append(f"const float {name} = {value} ;")
        return Expression(name, self.lines)


def cpp(formula: Formula, gradient: torch.dtype, out: torch.dtype | None) -> str:
    """The source of a function `run(p, m, v, g, out, n, h, sums, threads)`.

    Args:
        formula: of an element.
        gradient: dtype of g: fp32, bf16 or fp16.
        out: dtype of the copy of p, bf16 or fp16 (or fp32); None for none.
    """
    lines: list[str] = []
    p, m, v, g, *numbers = (Expression(n, lines) for n in ("p", "m", "v", "g", *Numbers._fields))
    values = formula.compute(p, m, v, g, Numbers(*numbers))  # type: ignore[arg-type]
    kept = len(formula.writes)
    used = [letter for letter in "pmvg" if any(letter in line.split() for line in lines)]
    body = [f"const float {letter} = number({letter}s[i + j]);" for letter in used] + lines
    for letter, value in zip(formula.writes, values[:kept], strict=True):
        body.append(f"{letter}s[i + j] = {value.name};")
        if letter == "p" and out is not None:
            body.append(f"store(copy[j], {value.name});")
    body += [f"sum{k}[j] += {value.name};" for k, value in enumerate(values[kept:])]
    ahead = [f"ask({letter}s + i + AHEAD);" for letter in used]
    return _FRAME.format(
        fields=" ".join(f"float {name};" for name in Numbers._fields),
        take_numbers=" ".join(f"const float {name} = h.{name};" for name in Numbers._fields),
        gradient=_TYPES[gradient],
        out=_TYPES[torch.bfloat16 if out is None else out],
        streams="true" if out is not None and out.itemsize == 2 else "false",
        body="\n        ".join(body),
        ahead=" ".join(ahead),
        sums=formula.sums,
        make_sums=" ".join(f"alignas(64) double sum{k}[BLOCK] = {{}};" for k in range(formula.sums)),
        pass_sums="".join(f", sum{k}" for k in range(formula.sums)),
        take_sums="".join(f", double* __restrict sum{k}" for k in range(formula.sums)),
        add_sums=" ".join(f"total[{k}] += sum{k}[j];" for k in range(formula.sums)),
    )


_FRAME = """\
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace {{

constexpr int64_t BLOCK = 64;   // elements: unrolled, and a whole line of a 16-bit stream
constexpr int64_t AHEAD = 512;  // elements that lines are asked for ahead

struct bf16 {{ uint16_t bits; }};
struct Numbers {{ {fields} }};
typedef {gradient} Gradient;
typedef {out} Out;

inline float number(float x) {{ return x; }}
inline float number(bf16 x) {{
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}}
inline void store(float& out, float x) {{ out = x; }}
inline void store(bf16& out, float x) {{  // to nearest, ties to even; what is not a number stays so
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    out.bits = (bits & 0x7fffffffu) > 0x7f800000u ? uint16_t((bits >> 16) | 64) : uint16_t(rounded);
}}
#ifdef __FLT16_MAX__
inline float number(_Float16 x) {{ return float(x); }}
inline void store(_Float16& out, float x) {{ out = _Float16(x); }}
#endif

template <class T> inline void ask(const T* from) {{
    for (int64_t j = 0; j < BLOCK; j += 64 / sizeof(T)) __builtin_prefetch(from + j);
}}

inline __attribute__((always_inline)) void block(
    float* __restrict ps, float* __restrict ms, float* __restrict vs, const Gradient* __restrict gs,
    Out* __restrict copy, int64_t i, int64_t count, const Numbers h{take_sums})
{{
    {take_numbers}
    for (int64_t j = 0; j < count; j++) {{
        {body}
    }}
}}

void stretch(float* ps, float* ms, float* vs, const Gradient* gs, Out* out, int64_t from, int64_t to,
             const Numbers h, double* total)
{{
    {make_sums}
    alignas(64) Out aside[BLOCK];
    int64_t i = from;
    if ({streams} && out) {{  // up to where a line of the copy begins
        int64_t first = int64_t(-uintptr_t(out + from) % 64 / sizeof(Out));
        first = first < to - from ? first : to - from;
        block(ps, ms, vs, gs, out + i, i, first, h{pass_sums});
        i += first;
    }}
    for (; i + BLOCK <= to; i += BLOCK) {{
        {ahead}
#ifdef __SSE2__
        if ({streams} && out) {{
            block(ps, ms, vs, gs, aside, i, BLOCK, h{pass_sums});
            for (int64_t j = 0; j < BLOCK; j += 8)
                _mm_stream_si128((__m128i*)(out + i + j), *(const __m128i*)(aside + j));
            continue;
        }}
#endif
        block(ps, ms, vs, gs, out + i, i, BLOCK, h{pass_sums});
    }}
    block(ps, ms, vs, gs, out + i, i, to - i, h{pass_sums});
#ifdef __SSE2__
    _mm_sfence();
#endif
    for (int64_t j = 0; j < BLOCK; j++) {{ {add_sums} }}
}}

}}  // namespace

extern "C" void run(float* p, float* m, float* v, const void* g, void* out, int64_t n, const float* h,
                    double* sums, int threads)
{{
    Numbers numbers;
    std::memcpy(&numbers, h, sizeof numbers);
    double all[2] = {{0, 0}};
    #pragma omp parallel num_threads(threads) if (n >= 65536) reduction(+ : all[:2])
    {{
        const int64_t ranks = omp_get_num_threads(), rank = omp_get_thread_num();
        const int64_t each = (n / ranks + BLOCK) / BLOCK * BLOCK;
        const int64_t from = rank * each, to = from + each < n ? from + each : n;
        if (from < to)
            stretch(p, m, v, (const Gradient*)g, (Out*)out, from, to, numbers, all);
    }}
    for (int k = 0; k < {sums}; k++) sums[k] = all[k];
}}
"""
