// LoRA beside the packed weights (arXiv 2106.09685): y += B (A x) for the rows of a chunk that has an adapter.
//
// A x is made once a product, for all its matrices, by the threads together; B is added to each tile where the product left it.
// A row's sums run over inputs and ranks in order, so they depend neither on other rows nor on threads.
#include "infer_step_parts.h"

namespace sk {

namespace {

float dot(const float* a, const float* x, int n) {
    Floats sum = zeros();
    for (int i = 0; i < n; i += LANES) sum = fma(load16(a + i), load16(x + i), sum);
    return total(sum);
}

// A prepared row as floats again, as the packed weights see it.
void widen(int kind, const void* row, int inputs, float* out) {
    int groups = groups_of(inputs);
    if (kind == SINGLES) std::memcpy(out, row, (size_t)groups * GROUP * 4);
    else if (kind == HALVES)
        for (int i = 0; i < groups * 2; i++) store16(out + i * LANES, load_bf16((const uint16_t*)row + i * LANES));
    else
        for (int g = 0; g < groups; g++) {
            const Group& group = ((const Group*)row)[g];
            for (int i = 0; i < GROUP; i++) out[g * GROUP + i] = group.scale * (float)group.q[i];
        }
}

}  // namespace

const LowRank* Worker::change(const Matrix& w, int row) const {
    int adapter = in.chunk_adapter[chunk_of(row)];
    if (adapter < 0) return nullptr;
    const LowRank* found = m.adapters[adapter] + w.slot;
    return found->rank ? found : nullptr;
}

float* Worker::low(int row, int place) const {
    return run.low.as<float>() + ((int64_t)row * std::max(3, m.heads) + place) * m.most_rank;
}

// A x of every row for `count` matrices that share their inputs.  With few rows the ranks are shared out, else the rows.
void Worker::low_rank(const Matrix* const* w, int count, const Prepared& rows) {
    if (!in.chunk_adapter) return;
    bool by_rank = M < 2 * team.size;
    for (int r = by_rank ? 0 : team.first(M); r < (by_rank ? M : team.end(M)); r++)
        for (int i = 0; i < count; i++) {
            const LowRank* c = w[i]->slot ? change(*w[i], r) : nullptr;
            if (!c) continue;
            int from = by_rank ? team.first(c->rank) : 0, to = by_rank ? team.end(c->rank) : c->rank, size = padded(w[i]->inputs);
            widen(kind_of(*w[i]), rows.of(*w[i])[r], w[i]->inputs, scratch);
            for (int j = from; j < to; j++) low(r, i)[j] = dot(c->a + (int64_t)j * size, scratch, size);
        }
    team.meet();
}

// The same for some of the step's rows: prepared row i is row places[i].
void Worker::low_rank_of(const Matrix& w, int rows, const Prepared& prepared, const int32_t* places) {
    for (int i = 0; i < rows; i++) {
        const LowRank* c = change(w, places[i]);
        if (!c) continue;
        int size = padded(w.inputs);
        widen(kind_of(w), prepared.of(w)[i], w.inputs, scratch);
        for (int j = team.first(c->rank); j < team.end(c->rank); j++) low(i, 0)[j] = dot(c->a + (int64_t)j * size, scratch, size);
    }
    team.meet();
}

// The same for one head's matrix of a stack, x in floats with zeros at the end.
void Worker::low_rank_of_head(const Matrix& w, int row, int head, const float* x) {
    const LowRank* c = in.chunk_adapter && w.slot ? change(w, row) : nullptr;
    if (!c) return;
    int size = padded(w.inputs);
    for (int j = 0; j < c->rank; j++) low(row, head)[j] = dot(c->a + head * c->a_stride + (int64_t)j * size, x, size);
}

// The same for every choice of an expert, whose prepared row is that of its token (by_row) or its own.  Gate and up share their A.
void Worker::low_rank_of_experts(const Matrix& w, const Rows& rows, bool by_row) {
    if (!in.chunk_adapter || !w.slot) return;
    int size = padded(w.inputs), count = (int)choices.size();
    size_t at = 0;
    for (int i = team.first(count); i < team.end(count); i++) {
        while (expert_first[(size_t)active[at] + 1] <= i) at++;
        const LowRank* c = change(w, choices[(size_t)i].row);
        if (!c) continue;
        widen(kind_of(w), rows[by_row ? choices[(size_t)i].row : i], w.inputs, scratch);
        for (int j = 0; j < c->rank; j++) expert_low(i)[j] = dot(c->a + active[at] * c->a_stride + (int64_t)j * size, scratch, size);
    }
    team.meet();
}

// out (BLOCK) += B · low.
void Worker::add_change(const LowRank* c, const Matrix& w, int index, const float* low, int column, float* out) {
    if (!c) return;
    const float* b = c->b + index * c->b_stride + column;
    for (int i = 0; i < BLOCK; i += LANES) {
        Floats sum = load16(out + i);
        for (int j = 0; j < c->rank; j++) sum = fma(load16(b + (int64_t)j * padded(w.outputs) + i), all(low[j]), sum);
        store16(out + i, sum);
    }
}

// tile (count, BLOCK) += B · low of rows first .. first + count.
void Worker::add_low_rank(const Matrix& w, int index, int place, int first, int count, int column, float* tile) {
    if (!in.chunk_adapter || !w.slot) return;
    for (int r = 0; r < count; r++) add_change(change(w, first + r), w, index, low(first + r, place), column, tile + r * BLOCK);
}

// The same for choices first .. first + count of an expert.
void Worker::add_low_rank_of_expert(const Matrix& w, int expert, int first, int count, int column, float* tile) {
    if (!in.chunk_adapter || !w.slot) return;
    for (int r = 0; r < count; r++)
        add_change(change(w, choices[(size_t)(first + r)].row), w, expert, expert_low(first + r), column, tile + r * BLOCK);
}

}  // namespace sk
