// The templates every part of a step uses: preparing rows, and sharing a matrix product among the threads.
#pragma once
#include "infer_step.h"

namespace sk {

// A prompt's rows walk through all splits one after another (memory stays small); a few rows share out their splits.
SK_INLINE int parts_of(int rows, int end) { return rows > 8 ? 1 : (end + SPLIT - 1) / SPLIT; }

// Rows 0 .. rows, made as floats by make(row, out) and quantised to each of the wanted kinds.
template <class Make> Prepared Worker::prepare(int rows, int inputs, unsigned kinds, Make make) {
    bool alone = rows <= ALONE;
    Prepared out{};
    uint8_t* at = own_rows;
    for (int kind = 0; kind < KINDS; kind++)
        if (kinds >> kind & 1) {
            int64_t stride = row_bytes(format_of(kind), inputs);
            out.kinds[kind] = {alone ? at : run.prepared[kind].data, stride};
            at += ALONE * row_bytes(format_of(kind), m.width_max);
        }
    for (int i = inputs; i < padded(inputs); i++) scratch[i] = 0;
    for (int r = alone ? 0 : team.first(rows); r < (alone ? rows : team.end(rows)); r++) {
        make(r, scratch);
        for (int kind = 0; kind < KINDS; kind++)
            if (kinds >> kind & 1) quantise_row(format_of(kind), scratch, inputs, (void*)out.kinds[kind][r]);
    }
    if (!alone) team.meet();
    return out;
}

// This thread's share of several products with the same rows: then(matrix, first row, rows, first column, tile) with a
// tile of BLOCK columns.
template <class Then> void Worker::products(const Matrix* const* w, int count, int index, const Prepared& rows, int M, Then then) {
    int all = 0;
    for (int i = 0; i < count; i++) all += blocks_of(w[i]->outputs);
    const void* from[ROW_BLOCK];
    for (int first = 0; first < M; first += ROW_BLOCK) {
        int n = std::min(ROW_BLOCK, M - first), which = -1, before = 0;
        const Rows* held = nullptr;
        for (int item = team.first(all); item < team.end(all); item++) {
            while (which < 0 || item - before >= blocks_of(w[which]->outputs)) {
                if (which >= 0) before += blocks_of(w[which]->outputs);
                which++;
            }
            const Matrix& matrix = *w[which];
            if (held != &rows.of(matrix)) {
                held = &rows.of(matrix);
                for (int r = 0; r < n; r++) from[r] = (*held)[first + r];
            }
            multiply(matrix, index, item - before, from, n, tile, BLOCK);
            then(which, first, n, (item - before) * BLOCK, tile);
        }
    }
}

template <class Then> void Worker::product(const Matrix& w, const Prepared& rows, int M, Then then) {
    const Matrix* one = &w;
    products(&one, 1, 0, rows, M, [&](int, int first, int count, int column, const float* tile) {
        then(first, count, column, tile);
    });
}

}  // namespace sk
