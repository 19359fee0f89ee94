"""`block.reference` in C++: the same steps in fp32, an order of magnitude and more faster."""

from __future__ import annotations

import ctypes

import numpy as np

from mainspring.linear.block import Order, Pass, Passed, Weights, reference
from mainspring.linear.combiners import Projection, Subset, Tracker
from mainspring.linear.losses import LOSSES
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.native import load

_SCHEDULES = {"constant": 0, "inverse": 1, "inverse_sqrt": 2}


def compiled() -> Pass:
    """The pass, compiled for this machine (about a second).

    Raises:
        OSError: there is no compiler, with what it said.
    """
    function = load(SOURCE).pass_over
    function.restype = ctypes.c_int64
    pointer, number, whole = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64
    function.argtypes = [*[pointer] * 5, whole, whole, ctypes.c_int, ctypes.c_int, *[number] * 3]
    function.argtypes += [pointer, pointer, *[pointer] * 2, whole, ctypes.c_uint64, *[pointer] * 2]

    def run(
        rows: SparseRows, order: Order, t: int, settings: LinearSettings, weights: Weights, tracker: Tracker
    ) -> Passed:
        sums = np.array([weights.scale, 1.0, 0.0])
        touched = np.empty(rows.features, dtype=np.int32)
        marks = np.zeros(rows.features, dtype=np.uint8)
        slots = change = None
        count, seed = 0, 0
        if isinstance(tracker, Subset):
            slots, change, count = tracker.slots, tracker.change, len(tracker.features)
        elif isinstance(tracker, Projection):
            change, count, seed = tracker.change, tracker.count, tracker.seed
        found = function(
            *(_address(a) for a in (rows.indptr, rows.indices, rows.values, rows.targets, order)),
            len(order),
            t,
            LOSSES[settings.loss].code,
            _SCHEDULES[settings.schedule],
            settings.rate,
            settings.decay,
            settings.l2,
            _address(weights.values),
            _address(sums),
            _address(slots),
            _address(change),
            count,
            seed,
            _address(touched),
            _address(marks),
        )
        weights.scale = float(sums[0])
        return Passed(np.sort(touched[:found]), float(sums[1]), float(sums[2]))

    return run


def compiled_or_reference() -> tuple[Pass, str]:
    """The fast pass, or the portable one and why ("" when it is the fast one)."""
    try:
        return compiled(), ""
    except OSError as error:
        return reference, str(error)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


SOURCE = r"""
#include <cmath>
#include <cstdint>
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
// slots given: change is N [count, count] on the features that have one. Not given, but change: N A
// [features, count]. Returns how many features were touched; they are listed in `touched`.
extern "C" int64_t pass_over(
    const int64_t* indptr, const int32_t* indices, const float* values, const float* targets,
    const int64_t* order, int64_t n, int64_t t, int loss, int schedule, double rate, double decay, double l2,
    float* weights, double* sums, const int32_t* slots, float* change, int64_t count, uint64_t seed,
    int32_t* touched, uint8_t* marks)
{
    double scale = sums[0], product = 1.0, total = 0.0;
    int64_t found = 0;
    std::vector<float> y(count), place;
    std::vector<int32_t> here;
    const float unit = count ? float(1.0 / std::sqrt(double(count))) : 0.0f;
    for (int64_t k = 0; k < n; k++) {
        if (k + 8 < n) {  // rows are drawn at random: ask for them ahead
            const int64_t next = indptr[order[k + 8]];
            __builtin_prefetch(indices + next);
            __builtin_prefetch(values + next);
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
            if (!marks[indices[j]]) { marks[indices[j]] = 1; touched[found++] = indices[j]; }
        }
        if (!change) continue;
        const float c = float(a * d.curvature / shrink);
        if (c == 0.0f) continue;
        std::fill(y.begin(), y.end(), 0.0f);
        if (slots) {
            here.clear(); place.clear();
            for (int64_t j = first; j < end; j++)
                if (slots[indices[j]] >= 0) { here.push_back(slots[indices[j]]); place.push_back(values[j]); }
            for (size_t h = 0; h < here.size(); h++) {
                const float* row = change + here[h] * count;
                for (int64_t q = 0; q < count; q++) y[q] += place[h] * row[q];
            }
            for (size_t h = 0; h < here.size(); h++) y[here[h]] += place[h];
            for (size_t h = 0; h < here.size(); h++) {
                float* row = change + here[h] * count;
                for (int64_t q = 0; q < count; q++) row[q] -= c * place[h] * y[q];
            }
        } else {
            for (int64_t j = first; j < end; j++) {
                const uint64_t bits = hashed(uint64_t(indices[j]) + seed * 0x9E3779B97F4A7C15ull);
                const float* row = change + indices[j] * count;
                for (int64_t q = 0; q < count; q++)
                    y[q] += values[j] * (row[q] + ((bits >> q) & 1 ? -unit : unit));
            }
            for (int64_t j = first; j < end; j++) {
                float* row = change + indices[j] * count;
                for (int64_t q = 0; q < count; q++) row[q] -= c * values[j] * y[q];
            }
        }
    }
    sums[0] = scale; sums[1] = product; sums[2] = total;
    return found;
}
"""
