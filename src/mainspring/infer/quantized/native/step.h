// A whole step of decoding in one parallel region: one token a row through all layers to its logits.
//
// Each thread has a run of heads and a run of every layer's outputs; what all need (norms, rounding) each does
// for itself, which is cheaper than another barrier. Four barriers a layer.
//
// Legend: R rows, D width, H heads, E width of a head, V tokens of the vocabulary.
#pragma once

#include <omp.h>

#include "products.h"

namespace {

struct Norm {
    const float* weight;  // null: there is none
    const float* bias;    // null: there is none
    float epsilon;
    int32_t centred;  // 1: LayerNorm, 0: RMSNorm
};

struct Layer {
    Norm attention_norm, feed_forward_norm;
    Linear qkv, out, up, down;  // outputs of qkv: [H, (q, k, v), E]
    float* keys;                // of slots, heads and tokens, [E] each, `Model` says how far apart
    float* values;
};

struct Model {
    const Layer* layers;
    int64_t depth, heads, head_width, width, capacity;
    int64_t slot_stride, head_stride, token_stride;  // of keys and values, in numbers
    Norm last;
    Linear head;
    float scale;
    int32_t unused;
};

void normalize(const Norm& norm, const float* x, int64_t width, float* y) {
    float mean = 0, square = 0;
    if (norm.centred) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; ++i) mean += x[i];
        mean /= width;
    }
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(square / width + norm.epsilon);
    for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * factor;
    if (norm.weight)
        for (int64_t i = 0; i < width; ++i) y[i] *= norm.weight[i];
    if (norm.bias)
        for (int64_t i = 0; i < width; ++i) y[i] += norm.bias[i];
}

// What one head of one row takes from `length` tokens before it and itself: y [E] of qkv [3, E].
void attend(const float* qkv, float* keys, float* values, int64_t stride, int64_t length, int64_t width,
            float scale, float* scores, float* y) {
    std::memcpy(keys + length * stride, qkv + width, width * sizeof(float));
    std::memcpy(values + length * stride, qkv + 2 * width, width * sizeof(float));
    float most = -INFINITY, sum = 0;
    for (int64_t t = 0; t <= length; ++t) {
        const float* key = keys + t * stride;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t e = 0; e < width; ++e) dot += qkv[e] * key[e];
        scores[t] = dot * scale;
        most = std::max(most, scores[t]);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t <= length; ++t) {
        scores[t] = exponential(scores[t] - most);
        sum += scores[t];
    }
    for (int64_t e = 0; e < width; ++e) y[e] = 0;
    for (int64_t t = 0; t <= length; ++t) {
        const float share = scores[t];
        const float* value = values + t * stride;
        for (int64_t e = 0; e < width; ++e) y[e] += share * value[e];
    }
    for (int64_t e = 0; e < width; ++e) y[e] /= sum;
}

// Rows of x, rounded as a layer wants them; with a norm, normalised before.
void round_rows(const Linear& l, const Norm* norm, const float* x, int64_t rows, std::vector<float>& normed,
                Tokens& t) {
    reserve_tokens(l, rows, t);
    if (norm) normed.resize(l.inputs);
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * l.inputs;
        if (norm) normalize(*norm, row, l.inputs, normed.data()), row = normed.data();
        round_token(l, row, r, t);
    }
}

void step(const Model& model, const float* x, const int64_t* slots, const int64_t* lengths, int64_t rows,
          float* logits, int threads) {
    const int64_t width = model.width, heads = model.heads, head = model.head_width;
    const int64_t inner = model.layers[0].up.outputs, all = heads * head;
    std::vector<float> stream(x, x + rows * width), qkv(rows * 3 * all), mixed(rows * all);
    std::vector<float> wide(rows * inner), added(rows * width);
#pragma omp parallel num_threads(threads)
    {
        const int64_t mine = omp_get_thread_num(), team = omp_get_num_threads();
        const auto start = [&](int64_t count, int64_t thread) { return thread * count / team; };
        Tokens tokens;
        std::vector<float> normed, scores(model.capacity);
        const auto add = [&](const Linear& l, const float* from) {
            round_rows(l, nullptr, from, rows, normed, tokens);
            const int64_t first = start(width, mine), last = start(width, mine + 1);
            outputs_of(l, tokens, rows, first, last, added.data(), width);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t n = first; n < last; ++n) stream[r * width + n] += added[r * width + n];
#pragma omp barrier
        };
        for (int64_t i = 0; i < model.depth; ++i) {
            const Layer& layer = model.layers[i];
            const int64_t first = start(heads, mine), last = start(heads, mine + 1);
            round_rows(layer.qkv, &layer.attention_norm, stream.data(), rows, normed, tokens);
            outputs_of(layer.qkv, tokens, rows, first * 3 * head, last * 3 * head, qkv.data(), 3 * all);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t h = first; h < last; ++h) {
                    const int64_t at = slots[r] * model.slot_stride + h * model.head_stride;
                    attend(qkv.data() + (r * heads + h) * 3 * head, layer.keys + at, layer.values + at,
                           model.token_stride, lengths[r], head, model.scale, scores.data(),
                           mixed.data() + r * all + h * head);
                }
#pragma omp barrier
            add(layer.out, mixed.data());
            round_rows(layer.up, &layer.feed_forward_norm, stream.data(), rows, normed, tokens);
            outputs_of(layer.up, tokens, rows, start(inner, mine), start(inner, mine + 1), wide.data(), inner);
#pragma omp barrier
            add(layer.down, wide.data());
        }
        round_rows(model.head, &model.last, stream.data(), rows, normed, tokens);
        const int64_t count = model.head.outputs;
        outputs_of(model.head, tokens, rows, start(count, mine), start(count, mine + 1), logits, count);
    }
}

}  // namespace
