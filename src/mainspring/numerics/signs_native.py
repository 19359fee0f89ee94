"""The loops of `numerics.signs` in C++: two passes over memory to compress, one to expand."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.native import load


class Kernels:
    """Compiled loops over fp32 runs on a CPU, with as many threads as torch then has; results do not depend
    on how many."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._compress, self._expand = library.compress, library.expand
        self._compress.restype = self._expand.restype = None
        self._compress.argtypes = [pointer, pointer, pointer, count, pointer, pointer, number, number]
        self._expand.argtypes = [pointer, pointer, pointer, count, pointer, ctypes.c_float, number, number]

    def compress(
        self,
        values: Tensor,
        error: Tensor,
        runs: Sequence[int],
        scales: Tensor,
        bits: Tensor,
        *,
        squares: bool,
    ) -> None:
        """As `signs.compress`; `squares` takes the root of the mean square as the scale."""
        bits[-4:].zero_()  # what fills the last word up
        self._compress(
            values.data_ptr(),
            error.data_ptr(),
            _sizes(runs),
            len(runs),
            scales.data_ptr(),
            bits.data_ptr(),
            squares,
            torch.get_num_threads(),
        )

    def expand(
        self, scales: Tensor, bits: Tensor, runs: Sequence[int], out: Tensor, weight: float, *, add: bool
    ) -> None:
        """As `signs.expand`."""
        self._expand(
            scales.data_ptr(),
            bits.data_ptr(),
            _sizes(runs),
            len(runs),
            out.data_ptr(),
            weight,
            add,
            torch.get_num_threads(),
        )


def kernels() -> Kernels:
    """Compile them, in about a second.

    Raises:
        OSError: there is no compiler that takes it.
    """
    return Kernels(load(_SOURCE, ["-fopenmp"]))


def _sizes(runs: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(runs))(*runs)


# Blocks are summed up apart and then in order, so that a sum does not depend on the number of threads.
_SOURCE = """
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 8192;  // elements; of a run's signs a whole number of bytes

double sum(const float* x, float* e, int64_t n, bool squares) {
    double lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            const float z = x[i + j] + e[i + j];
            e[i + j] = z;
            const double length = std::fabs(double(z));
            lanes[j] += squares ? length * length : length;
        }
    for (; i < n; i++) {
        const float z = x[i] + e[i];
        e[i] = z;
        const double length = std::fabs(double(z));
        lanes[i % 16] += squares ? length * length : length;
    }
    double total = 0;
    for (double lane : lanes) total += lane;
    return total;
}

inline uint8_t signs(const float* z) {
#ifdef __SSE2__
    const __m128 zero = _mm_setzero_ps();
    const int low = _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(z), zero));
    return uint8_t(low | _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(z + 4), zero)) << 4);
#else
    uint8_t byte = 0;
    for (int j = 0; j < 8; j++) byte |= uint8_t(z[j] >= 0) << j;
    return byte;
#endif
}

void split(float* e, int64_t n, float scale, uint8_t* bits) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        bits[i / 8] = signs(e + i);
        for (int j = 0; j < 8; j++) e[i + j] -= e[i + j] >= 0 ? scale : -scale;
    }
    if (i == n) return;
    uint8_t byte = 0;
    for (int j = 0; i + j < n; j++) {
        const bool positive = e[i + j] >= 0;
        byte |= uint8_t(positive) << j;
        e[i + j] -= positive ? scale : -scale;
    }
    bits[i / 8] = byte;
}

template <bool ADD> void join(const uint8_t* bits, float scale, float* out, int64_t n) {
    uint32_t positive;
    std::memcpy(&positive, &scale, 4);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const uint32_t negative = ~uint32_t(bits[i / 8]);
        uint32_t words[8];
        float values[8];
        for (int j = 0; j < 8; j++) words[j] = positive ^ (negative << (31 - j) & 0x80000000u);  // its sign
        std::memcpy(values, words, sizeof values);
        for (int j = 0; j < 8; j++) out[i + j] = ADD ? out[i + j] + values[j] : values[j];
    }
    for (; i < n; i++) {
        const float value = bits[i / 8] >> (i & 7) & 1 ? scale : -scale;
        out[i] = ADD ? out[i] + value : value;
    }
}

}  // namespace

extern "C" void compress(const float* x, float* e, const int64_t* runs, int64_t count, float* scales,
                         uint8_t* bits, int squares, int threads)
{
    std::vector<double> sums;
    for (int64_t run = 0; run < count; run++) {
        const int64_t n = runs[run], blocks = (n + BLOCK - 1) / BLOCK;
        sums.assign(blocks, 0.0);
        #pragma omp parallel for num_threads(threads) if (blocks >= 8)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = b * BLOCK, size = n - from < BLOCK ? n - from : BLOCK;
            sums[b] = sum(x + from, e + from, size, squares);
        }
        double total = 0;
        for (double one : sums) total += one;
        const float scale = float(squares ? std::sqrt(total / double(n)) : total / double(n));
        scales[run] = scale;
        #pragma omp parallel for num_threads(threads) if (blocks >= 8)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = b * BLOCK, size = n - from < BLOCK ? n - from : BLOCK;
            split(e + from, size, scale, bits + from / 8);
        }
        x += n, e += n, bits += (n + 7) / 8;
    }
}

extern "C" void expand(const float* scales, const uint8_t* bits, const int64_t* runs, int64_t count,
                       float* out, float weight, int add, int threads)
{
    for (int64_t run = 0; run < count; run++) {
        const int64_t n = runs[run], blocks = (n + BLOCK - 1) / BLOCK;
        const float scale = scales[run] * weight;
        #pragma omp parallel for num_threads(threads) if (blocks >= 8)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = b * BLOCK, size = n - from < BLOCK ? n - from : BLOCK;
            if (add) join<true>(bits + from / 8, scale, out + from, size);
            else join<false>(bits + from / 8, scale, out + from, size);
        }
        out += n, bits += (n + 7) / 8;
    }
}
"""
