// What Python calls of the compiled tier.
#include <omp.h>

#include "products.h"
#include "step.h"

namespace {
thread_local Tokens scratch;  // grows to the largest call of a thread, and stays
}

extern "C" {

// out [M, N] = activation(x [M, inputs] weight^T + bias).
void mainspring_linear(const Linear* l, const float* x, int64_t tokens, float* out, int threads) {
    Tokens& shared = scratch;
    reserve_tokens(*l, tokens, shared);
    if (tokens * l->outputs * l->filled < 1 << 18) threads = 1;
    const int64_t share = l->outputs / (threads * 4), most = PANEL / l->filled;
    const int64_t chunk = std::max<int64_t>(COLUMNS, std::min(share, most) / COLUMNS * COLUMNS);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t m = 0; m < tokens; ++m) round_token(*l, x + m * l->inputs, m, shared);
#pragma omp for schedule(dynamic, 1)
        for (int64_t n = 0; n < l->outputs; n += chunk)
            outputs_of(*l, shared, tokens, n, std::min(l->outputs, n + chunk), out, l->outputs);
    }
}

// Integer sums, for tests: int8 layers [M, N], int4 layers [M, N, B].
void mainspring_sums(const Linear* l, const float* x, int64_t tokens, int32_t* out, int8_t* integers) {
    Tokens t;
    reserve_tokens(*l, tokens, t);
    const int64_t blocks = l->filled / BLOCK;
    for (int64_t m = 0; m < tokens; ++m) round_token(*l, x + m * l->inputs, m, t);
    std::memcpy(integers, t.narrow.data(), tokens * l->filled);
    for (int64_t m = 0; m < tokens; ++m)
        for (int64_t n = 0; n < l->outputs; ++n) {
            if (l->bits == 8) {
                int32_t one[1][1];
                int8_tile<1, 1>(t, m, l->values + n * l->filled, l->filled, one);
                out[m * l->outputs + n] = one[0][0];
            } else {
                for (int64_t b = 0; b < blocks; ++b)
                    out[(m * l->outputs + n) * blocks + b] =
                        block_sum(l->values + (n * blocks + b) * 32, t.narrow.data() + m * l->filled + b * BLOCK,
                                  t.sums[m * blocks + b]);
            }
        }
}

// logits [R, V] of one token a row; x [R, D] its embedding. Row r's keys and values lie in a slot of the cache,
// where `lengths[r]` tokens are and the new one is added.
void mainspring_step(const Model* model, const float* x, const int64_t* slots, const int64_t* lengths,
                     int64_t rows, float* logits, int threads) {
    step(*model, x, slots, lengths, rows, logits, threads);
}
}
