// A step from token ids to logits: preparation of rows, matrix products shared among threads, dense layers, the C functions.
// Attention is in infer_step_attention.cpp, experts in infer_step_experts.cpp.
#include "infer_step_parts.h"
#include <omp.h>

namespace sk {

Worker::Worker(Runner& run, const Step& in, Team team) : run(run), m(run.model), in(in), team(team), M(in.chunk_rows[in.chunks]) {
    int64_t widest = std::max(padded(m.width_max), LANES * partial_floats(value_floats()));
    int64_t row = row_bytes(F32, m.width_max) + row_bytes(BF16, m.width_max) + row_bytes(Q8, m.width_max);
    Buffer& own = *run.own[(size_t)team.me];
    int64_t page = m.attention == MLA ? (int64_t)PAGE * mla_row(m.latent, m.rotary) * 2 : gqa_head_bytes(m.head_dim);
    int64_t rest = widest * 4 + 2 * ROW_BLOCK * BLOCK * 4 + ALONE * row;
    own.ensure(rest + 256 + (m.cache_int8 ? SPLIT / PAGE * page : 0));
    scratch = own.as<float>();
    std::memset(scratch, 0, (size_t)widest * 4);
    tile = scratch + widest;
    own_rows = (uint8_t*)(tile + 2 * ROW_BLOCK * BLOCK);
    opened = own.data + (rest + 63) / 64 * 64;
}

void Worker::step() {
    embed();
    for (int l = 0; l < m.layer_count; l++) {
        next = l + 1 < m.layer_count ? &m.layers[l + 1] : nullptr;
        layer(m.layers[l]);
    }
    if (in.raw_states)
        for (int r = team.first(M); r < team.end(M); r++)
            std::memcpy(in.raw_states + (int64_t)r * padded(m.hidden), x(r), (size_t)padded(m.hidden) * 4);
    head();
}

void Worker::layer(const Layer& layer) {
    if (m.attention == MLA) mla(layer);
    else gqa(layer);
    if (layer.moe) moe(layer);
    else mlp(layer);
}

void Worker::embed() {
    for (int r = team.first(M); r < team.end(M); r++) dequantise_row(m.embedding, in.ids[r], x(r));
    team.meet();
}

Prepared Worker::normed(const float* weight, unsigned kinds) {
    if (M > ALONE && M <= FEW)
        for (int r = team.first(M); r < team.end(M); r++) fetch(x(r), m.hidden * 4);
    return prepare(M, m.hidden, kinds, [&](int r, float* out) { rms_norm_row(x(r), weight, m.hidden, m.eps, out); });
}

// The first matrices of the next layer, or the head.
void Worker::meet_before_layer() {
    if (!next) return meet_before(m.head);
    meet_before(next->q_a.outputs ? next->q_a : next->q, m.attention == MLA ? blocks_of(next->kv_a.outputs) : 2 * blocks_of(next->k.outputs));
}

void Worker::add_product(const Matrix& w, const Prepared& rows) {
    product(w, rows, M, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            for (int i = 0; i < BLOCK; i += LANES) {
                float* at = x(first + r) + column + i;
                store16(at, add(load16(at), load16(tile + r * BLOCK + i)));
            }
    });
}

void Worker::add_attended(const Layer& layer, const Prepared& rows) {
    add_product(layer.o, rows);
    meet_before(layer.moe ? layer.router : layer.gate);
}

void Worker::mlp(const Layer& layer) {
    Prepared rows = normed(layer.mlp_norm, 1u << kind_of(layer.gate) | 1u << kind_of(layer.up));
    const Matrix* both[2] = {&layer.gate, &layer.up};
    low_rank(both, 2, rows);
    int kind = kind_of(layer.down);
    int64_t stride = row_bytes(format_of(kind), layer.gate.outputs);
    int blocks = blocks_of(layer.gate.outputs);
    rows.of(layer.gate).gather(M);
    share((M + ROW_BLOCK - 1) / ROW_BLOCK * blocks, [&](int item) {
        int first = item / blocks * ROW_BLOCK, n = std::min(ROW_BLOCK, M - first);
        glu(layer.gate, layer.up, 0, item % blocks, rows, nullptr, first, n, kind, run.hidden, stride, false);
    });
    meet_before(layer.down);
    Prepared hidden;
    hidden.kinds[kind] = {run.hidden.data, stride};
    add_product(layer.down, hidden);
    meet_before_layer();
}

// 32 channels of silu(gate) · up for a run of rows, quantised at once: a group of activations never leaves this thread.
void Worker::glu(const Matrix& gate, const Matrix& up, int index, int block, const Prepared& prepared, const Choice* choices, int first,
                 int count, int kind, Buffer& out, int64_t stride, bool clamped, const uint8_t* next) {
    const void* from[ROW_BLOCK];
    auto take = [&](const Rows& rows) {
        for (int r = 0; r < count; r++) from[r] = rows[choices ? choices[first + r].row : first + r];
    };
    float* other = tile + ROW_BLOCK * BLOCK;
    take(prepared.of(gate));
    multiply(gate, index, block, from, count, tile, BLOCK);
    if (kind_of(up) != kind_of(gate)) take(prepared.of(up));  // one of them in floats
    multiply(up, index, block, from, count, other, BLOCK, next);
    if (choices) {
        add_low_rank_of_expert(gate, index, first, count, block * BLOCK, tile);
        add_low_rank_of_expert(up, index, first, count, block * BLOCK, other);
    } else {
        add_low_rank(gate, index, 0, first, count, block * BLOCK, tile);
        add_low_rank(up, index, 1, first, count, block * BLOCK, other);
    }
    auto activation = [&](Floats g, Floats u) {
        if (!clamped) return mul(silu16(g), u);
        Floats limit = all(m.swiglu_limit);
        g = smaller(limit, g);  // in this order NaN stays NaN
        u = larger(sub(zeros(), limit), smaller(limit, u));
        return mul(mul(add(u, all(1.0f)), g), div(all(1.0f), add(all(1.0f), exp16(mul(g, all(-m.swiglu_alpha))))));
    };
    for (int r = 0; r < count; r++) {
        float* g = tile + r * BLOCK;
        for (int b = 0; b < 2; b++)
            store16(g + b * LANES, activation(load16(g + b * LANES), load16(other + r * BLOCK + b * LANES)));
        quantise_row(format_of(kind), g, BLOCK, out.data + (first + r) * stride + block * row_bytes(format_of(kind), BLOCK));
    }
}

void Worker::head() {
    if (in.wanted_count == 0) return;
    if (in.states) {
        for (int i = team.first(in.wanted_count); i < team.end(in.wanted_count); i++)
            rms_norm_row(x(in.wanted[i]), m.final_norm, m.hidden, m.eps, in.states + (int64_t)i * padded(m.hidden));
        return;
    }
    head_product(m.final_norm, m.head.outputs, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(in.logits + (first + r) * in.logits_stride + column, tile + r * BLOCK, BLOCK * 4);
    });
}

// ---- memory ------------------------------------------------------------------------------------------------------------------

void Runner::ensure(const Step& in) {
    int M = in.chunk_rows[in.chunks];
    const Model& m = model;
    x.ensure((int64_t)M * padded(m.hidden) * 4);
    q_width = padded(m.heads * (m.attention == MLA ? std::max(m.nope + m.rotary, m.head_dim) : m.head_dim));
    k_width = m.attention == MLA ? padded(m.latent + m.rotary) : padded(m.kv_heads * m.head_dim);
    q.ensure((int64_t)M * q_width * 4 + 4096);  // rows are read a little beyond their end
    k.ensure((int64_t)M * k_width * 4 + 4096);
    v.ensure((int64_t)M * k_width * 4 + 4096);
    q_latent.ensure((int64_t)M * padded(m.q_latent) * 4);
    if (m.attention == MLA)  // each chunk begins a block of 16
        queries.ensure(((int64_t)M * m.heads + 2 * (in.chunks + 1) * LANES) * mla_row(m.latent, m.rotary) * 2);
    else queries.ensure((int64_t)M * m.heads * head_channels(m.head_dim) * 2);
    if (in.chunk_adapter) low.ensure((int64_t)M * std::max(3, m.heads) * m.most_rank * 4);
    if (in.chunk_adapter) expert_low.ensure((int64_t)M * m.experts_per_token * m.most_rank * 4);
    shared_scale.ensure((int64_t)M * 4);
    scores.ensure((int64_t)M * padded(m.experts) * 4);
    chosen.ensure((int64_t)M * m.experts_per_token * 8);
    ensure_layers(M, std::max(M, in.wanted_count));
    ensure_chunks(in, M);
    while ((int)own.size() < in.threads) own.push_back(std::make_unique<Buffer>());
    if (taken.size() != (size_t)(LOOPS * in.threads)) taken = std::vector<Taken>((size_t)(LOOPS * in.threads));
    for (Taken& one : taken) one.ends.store(0);
}

// Activation rows, for the kinds and widths that the matrices really take.
void Runner::ensure_layers(int M, int rows) {
    auto input_of = [&](const Matrix& w) { prepared[kind_of(w)].ensure(rows * row_bytes(w.format, w.inputs)); };
    input_of(model.head);
    if (model.draft.join.outputs) input_of(model.draft.join);
    for (int l = 0; l < model.layer_count + (model.draft.join.outputs > 0); l++) {
        const Layer& layer = model.layers[l];
        for (const Matrix* w : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.q_a, &layer.q_b, &layer.kv_a, &layer.gate, &layer.up,
                                &layer.router, &layer.shared_gate, &layer.expert_gate, &layer.expert_up})
            if (w->outputs) input_of(*w);
        for (const Matrix* w : {&layer.k_b, &layer.v_b})
            if (w->outputs) head_rows.ensure((int64_t)M * model.heads * row_bytes(w->format, w->inputs));
        if (layer.down.outputs) (layer.moe ? shared_hidden : hidden).ensure(M * row_bytes(layer.down.format, padded(layer.down.inputs)));
        if (layer.moe)
            hidden.ensure((int64_t)M * model.experts_per_token * row_bytes(layer.expert_down.format, padded(layer.expert_down.inputs)));
    }
}

// Where each row stands, and room for the sums over its splits.
void Runner::ensure_chunks(const Step& in, int M) {
    position.ensure(M * 4);
    chunk_of.ensure(M * 4);
    first_part.ensure(M * 4);
    int total = 0;
    for (int c = 0, row = 0; c < in.chunks; c++) {
        int count = in.chunk_rows[c + 1] - in.chunk_rows[c];
        for (int i = 0; i < count; i++, row++) {
            position.as<int>()[row] = in.chunk_start[c] + i;
            chunk_of.as<int>()[row] = c;
            first_part.as<int>()[row] = total;
            total += parts_of(count, in.chunk_start[c] + count);
        }
    }
    int value = model.attention == MLA ? padded(model.latent) : head_channels(model.head_dim);
    partials.ensure((int64_t)total * model.heads * partial_floats(value) * 4);
}

// ---- called from Python --------------------------------------------------------------------------------------------------------

SK_API Runner* sk_infer_open() { return new Runner(); }
SK_API void sk_infer_close(Runner* run) { delete run; }

SK_API void sk_infer_step(Runner* run, const Model* model, const Step* in) {
    run->model = *model;
    run->ensure(*in);
#pragma omp parallel num_threads(in->threads)
    {
        Worker worker(*run, *in, Team{run->barrier, omp_get_thread_num(), omp_get_num_threads()});
        worker.step();
    }
}

SK_API void sk_infer_sizes(int64_t* sizes) {  // so that Python can check its mirrors
    sizes[0] = sizeof(Matrix);
    sizes[1] = sizeof(Layer);
    sizes[2] = sizeof(Model);
    sizes[3] = sizeof(Step);
    sizes[4] = sizeof(LowRank);
    sizes[5] = sizeof(Draft);
    sizes[6] = sizeof(Drafting);
    sizes[7] = sizeof(Burst);
}

SK_API int64_t sk_infer_layer_page_bytes(const Model* m) {
    if (m->cache_int8)
        return m->attention == MLA ? mla_page_bytes8(m->latent, m->rotary) : m->kv_heads * gqa_head_bytes8(m->head_dim);
    return m->attention == MLA ? (int64_t)PAGE * mla_row(m->latent, m->rotary) * 2 : m->kv_heads * gqa_head_bytes(m->head_dim);
}

}  // namespace sk
