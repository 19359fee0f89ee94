"""`block.Portable` in C++: the same steps in fp32, an order of magnitude and more faster."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import numpy.typing as npt

from mainspring.linear.block import Loops, Order, Passed, Portable, Weights
from mainspring.linear.combiners import Array, Projection, Subset, Tracker
from mainspring.linear.lines import Ints, line_count
from mainspring.linear.losses import LOSSES
from mainspring.linear.rows import SparseRows
from mainspring.linear.steps import Steps
from mainspring.native import load

_SCHEDULES = {"constant": 0, "inverse": 1, "inverse_sqrt": 2}


class Compiled:
    """`Loops` of a library that was made from `SOURCE`."""

    def __init__(self, found: ctypes.CDLL) -> None:
        pointer, number, whole = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64
        self._pass, self._add, self._copy = found.pass_over, found.add_lines, found.copy_lines
        self._pass.restype = self._add.restype = self._copy.restype = None
        self._pass.argtypes = [*[pointer] * 5, whole, whole, ctypes.c_int, ctypes.c_int, *[number] * 3]
        self._pass.argtypes += [pointer, pointer, *[pointer] * 4, whole, ctypes.c_uint64, pointer]
        self._add.argtypes = [pointer, whole, pointer, whole, pointer, pointer, number]
        self._copy.argtypes = [pointer, whole, pointer, whole, pointer]
        self._counts, self._choose = found.count_features, found.choose
        self._counts.restype, self._choose.restype = None, whole
        self._counts.argtypes = [pointer, whole, pointer]
        self._choose.argtypes = [pointer, pointer, pointer, whole, *[pointer] * 4]

    def pass_over(
        self, rows: SparseRows, order: Order, t: int, steps: Steps, weights: Weights, tracker: Tracker
    ) -> Passed:
        """See `block.Loops`, here and below."""
        sums = np.array([weights.scale, 1.0, 0.0])
        marks = np.zeros(line_count(rows.features), dtype=np.uint8)
        chosen = change = None
        count, seed = 0, 0
        if isinstance(tracker, Subset):
            self.prepare(tracker, rows)
            assert tracker.chosen is not None
            chosen, change, count = tracker.chosen[1], tracker.change, len(tracker.features)
        elif isinstance(tracker, Projection):
            change, count, seed = tracker.change, tracker.count, tracker.seed
        parts: list[np.ndarray | None] = [None, None, None]
        if chosen is not None:
            parts = [chosen.indptr, chosen.indices, chosen.values]
        self._pass(
            *(_address(a) for a in (rows.indptr, rows.indices, rows.values, rows.targets, order)),
            len(order),
            t,
            LOSSES[steps.loss].code,
            _SCHEDULES[steps.schedule],
            steps.rate,
            steps.decay,
            steps.l2,
            _address(weights.values),
            _address(sums),
            *(_address(part) for part in parts),
            _address(change),
            count,
            seed,
            _address(marks),
        )
        weights.scale = float(sums[0])
        return Passed(np.flatnonzero(marks).astype(np.int32), float(sums[1]), float(sums[2]))

    def counts(self, rows: SparseRows) -> npt.NDArray[np.int64]:
        counts = np.zeros(rows.features, dtype=np.int64)
        self._counts(_address(rows.indices), len(rows.indices), _address(counts))
        return counts

    def prepare(self, tracker: Subset, rows: SparseRows) -> None:
        if tracker.chosen is not None and tracker.chosen[0] is rows:
            return
        indptr = np.empty(len(rows) + 1, dtype=np.int64)
        # As many as there can be; pages that are not written take no memory.
        indices, values = np.empty(len(rows.indices), np.int32), np.empty(len(rows.indices), np.float32)
        given = [_address(part) for part in (rows.indptr, rows.indices, rows.values)]
        made = [_address(part) for part in (tracker.slots, indptr, indices, values)]
        count = self._choose(*given, len(rows), *made)
        some = SparseRows(indptr, indices[:count], values[:count], rows.targets, len(tracker.features))
        tracker.chosen = rows, some

    def add(self, values: Array, lines: Ints, ends: Array, begins: Array, factor: float) -> None:
        self._add(
            *(_address(values), len(values), _address(lines), len(lines), _address(ends), _address(begins)),
            factor,
        )

    def copy(self, to: Array, lines: Ints, source: Array) -> None:
        self._copy(_address(to), len(to), _address(lines), len(lines), _address(source))


@functools.cache
def compiled() -> Compiled:
    """The loops, compiled for this machine (about a second, once in a process).

    Raises:
        OSError: there is no compiler, with what it said.
    """
    return Compiled(load(SOURCE))


def compiled_or_portable() -> tuple[Loops, str]:
    """The fast loops, or the portable ones and why ("" when they are the fast ones)."""
    try:
        return compiled(), ""
    except OSError as error:
        return Portable(), str(error)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

inline uint64_t hashed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Derivatives { double value, slope, curvature; };

inline Derivatives at(int loss, double m, double y) {
    switch (loss) {
    case 0: return {0.5 * (m - y) * (m - y), m - y, 1.0};
    case 1: {
        const double z = std::exp(-std::fabs(m)), s = z / (1 + z);  // of the smaller side
        const double wrong = y * m > 0 ? s : 1 - s;
        return {std::fmax(-y * m, 0.0) + std::log1p(z), -y * wrong, s * (1 - s)};
    }
    case 2: return {std::fmax(0.0, 1 - y * m), y * m < 1 ? -y : 0.0, 0.0};
    default: {
        const double short_of = std::fmax(0.0, 1 - y * m);
        return {0.5 * short_of * short_of, y * m < 1 ? m - y : 0.0, y * m < 1 ? 1.0 : 0.0};
    }
    }
}

}  // namespace

// sums: the scale of the weights (in and out), the product of decays, the sum of losses (both out).
// own_... given: the rows on the features whose N is followed in change [count, count], by their places. Not
// given, but change: N A [features, count]. Lines of 16 features that were touched get a mark.
extern "C" void pass_over(
    const int64_t* indptr, const int32_t* indices, const float* values, const float* targets,
    const int64_t* order, int64_t n, int64_t t, int loss, int schedule, double rate, double decay, double l2,
    float* weights, double* sums, const int64_t* own_indptr, const int32_t* own_indices,
    const float* own_values, float* change, int64_t count, uint64_t seed, uint8_t* marks)
{
    double scale = sums[0], product = 1.0, total = 0.0;
    std::vector<float> sides(count);
    float* __restrict y = sides.data();
    const float unit = count ? float(1.0 / std::sqrt(double(count))) : 0.0f;
    for (int64_t k = 0; k < n; k++) {
        if (k + 8 < n) {  // rows are drawn at random: ask for them ahead
            for (int64_t j = indptr[order[k + 8]], e = indptr[order[k + 8] + 1]; j < e; j += 16) {
                __builtin_prefetch(indices + j);
                __builtin_prefetch(values + j);
            }
        }
        if (own_indptr && k + 8 < n) {
            __builtin_prefetch(own_indices + own_indptr[order[k + 8]]);
            __builtin_prefetch(own_values + own_indptr[order[k + 8]]);
        }
        if (k + 3 < n)
            for (int64_t j = indptr[order[k + 3]], e = indptr[order[k + 3] + 1]; j < e; j++)
                __builtin_prefetch(weights + indices[j]);
        const int64_t first = indptr[order[k]], end = indptr[order[k] + 1];
        double margin = 0.0;
        for (int64_t j = first; j < end; j++) margin += double(values[j]) * weights[indices[j]];
        const Derivatives d = at(loss, margin * scale, targets[order[k]]);
        const double slower = 1.0 + decay * double(t + k);
        const double a = schedule == 0 ? rate : schedule == 1 ? rate / slower : rate / std::sqrt(slower);
        const double shrink = 1.0 - a * l2;
        total += d.value;
        scale *= shrink;
        product *= shrink;
        const float by = float(a * d.slope / scale);
        for (int64_t j = first; j < end; j++) {
            weights[indices[j]] -= by * values[j];
            marks[indices[j] >> 4] = 1;
        }
        if (!change) continue;
        const float c = float(a * d.curvature / shrink);
        if (c == 0.0f) continue;
        std::fill(y, y + count, 0.0f);
        if (own_indptr) {
            const int64_t from = own_indptr[order[k]], to = own_indptr[order[k] + 1];
            for (int64_t h = from; h < to; h++) {
                const float* row = change + own_indices[h] * count;
                for (int64_t q = 0; q < count; q++) y[q] += own_values[h] * row[q];
            }
            for (int64_t h = from; h < to; h++) y[own_indices[h]] += own_values[h];
            for (int64_t h = from; h < to; h++) {
                float* __restrict row = change + own_indices[h] * count;
                for (int64_t q = 0; q < count; q++) row[q] -= c * own_values[h] * y[q];
            }
        } else {
            for (int64_t j = first; j < end; j++) {
                const uint64_t bits = hashed(uint64_t(indices[j]) + seed * 0x9E3779B97F4A7C15ull);
                const float* row = change + indices[j] * count;
                for (int64_t q = 0; q < count; q++)
                    y[q] += values[j] * (row[q] + ((bits >> q) & 1 ? -unit : unit));
            }
            for (int64_t j = first; j < end; j++) {
                float* __restrict row = change + indices[j] * count;
                for (int64_t q = 0; q < count; q++) row[q] -= c * values[j] * y[q];
            }
        }
    }
    sums[0] = scale; sums[1] = product; sums[2] = total;
}

extern "C" void count_features(const int32_t* indices, int64_t n, int64_t* counts)
{
    for (int64_t j = 0; j < n; j++) counts[indices[j]]++;
}

// The rows on the features that have a slot, by their slots; returns how many numbers that are.
extern "C" int64_t choose(const int64_t* indptr, const int32_t* indices, const float* values, int64_t n,
                          const int32_t* slots, int64_t* own_indptr, int32_t* own_indices, float* own_values)
{
    int64_t found = 0;
    for (int64_t k = 0; k < n; k++) {
        own_indptr[k] = found;
        for (int64_t j = indptr[k]; j < indptr[k + 1]; j++) {
            const int32_t slot = slots[indices[j]];
            if (slot >= 0) { own_indices[found] = slot; own_values[found++] = values[j]; }
        }
    }
    own_indptr[n] = found;
    return found;
}

// values += factor * (ends - begins) on lines.
extern "C" void add_lines(float* values, int64_t features, const int32_t* lines, int64_t n,
                          const float* ends, const float* begins, double factor)
{
    const float by = float(factor);
    for (int64_t k = 0; k < n; k++) {
        const int64_t first = int64_t(lines[k]) * 16, last = first + 16 < features ? first + 16 : features;
        for (int64_t f = first; f < last; f++)
            values[f] += by * (ends[f] - begins[f]);
    }
}

extern "C" void copy_lines(float* to, int64_t features, const int32_t* lines, int64_t n, const float* source)
{
    for (int64_t k = 0; k < n; k++) {
        const int64_t first = int64_t(lines[k]) * 16, last = first + 16 < features ? first + 16 : features;
        std::memcpy(to + first, source + first, (last - first) * sizeof(float));
    }
}
"""
