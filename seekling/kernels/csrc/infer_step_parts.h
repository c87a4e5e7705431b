// The templates every part of a step uses: preparing rows, and sharing a matrix product among the threads.
#pragma once
#include "infer_step.h"

namespace sk {

// A prompt's rows walk through all splits one after another (memory stays small); a few rows share out their splits.
SK_INLINE bool walks(int rows) { return rows > 8; }
SK_INLINE int parts_of(int rows, int end) { return walks(rows) ? 1 : (end + SPLIT - 1) / SPLIT; }

// work(i) for every i in 0 .. n, by some thread.  Each has a run of its own, so that it reads memory in one stream, and takes from the
// ends of the others' when it is through, for threads are never equally fast.  Of a step of few rows a third of what is left is taken
// at a time: a locked instruction waits for all reads before it, and the stream stands still.
template <class Do> void Worker::share(int n, Do work) {
    Taken* now = run.taken.data() + (size_t)(loops % LOOPS * team.size);
    run.taken[(size_t)((loops + LOOPS / 2) % LOOPS * team.size + team.me)].ends.store(0, std::memory_order_relaxed);
    loops++;
    for (int i = 0; i < team.size; i++) {
        int whose = (team.me + i) % team.size;
        int first = (int)((int64_t)n * whose / team.size), count = (int)((int64_t)n * (whose + 1) / team.size) - first;
        std::atomic<uint64_t>& ends = now[whose].ends;
        for (;;) {
            uint64_t seen = ends.load(std::memory_order_relaxed);
            int left = count - (int)(uint32_t)seen - (int)(seen >> 32), many = M > FEW ? 1 : std::max(1, left / 3);
            if (left <= 0) break;
            seen = ends.fetch_add((uint64_t)many << (i == 0 ? 0 : 32), std::memory_order_relaxed);
            int front = (int)(uint32_t)seen, back = (int)(seen >> 32), taken = std::min(many, count - front - back);
            int from = i == 0 ? first + front : first + count - back - taken;
            for (int k = 0; k < taken; k++) work(from + k);
        }
    }
}

// Meet, and ask for the beginning of what this thread will read of `w` (a stack: one matrix a head) afterwards.  `others`: blocks of
// other matrices behind it in the same shared loop.
inline void Worker::meet_before(const Matrix& w, int others) {
    if (M > FEW || !w.outputs) return team.meet();
    int64_t blocks = (int64_t)blocks_of(w.outputs) * (w.stride ? m.heads : 1), size = w.stride ? std::min<int64_t>(w.step, w.stride) : w.step;
    int64_t first = std::min<int64_t>(team.first(blocks + others), blocks - 1), end = std::min<int64_t>(team.end(blocks + others), blocks);
    meet_reading(w.data + first * size, std::min<int64_t>(SOON, size), std::min<int64_t>((end - first) * size, LATER));
}

// Meet; `first` bytes from here on are asked for before, up to `most` while the others are waited for.
inline void Worker::meet_reading(const uint8_t* at, int64_t first, int64_t most) {
    fetch(at, first);
    team.meet([&] {
        if (first >= most) return false;
        fetch(at + first, 512);
        first += 512;
        return true;
    });
}

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

// Several products with the same rows, shared: then(matrix, first row, rows, first column, tile) with a tile of BLOCK columns.
template <class Then> void Worker::products(const Matrix* const* w, int count, int index, const Prepared& rows, int M, Then then) {
    int all = 0, held_first = -1;
    for (int i = 0; i < count; i++) all += blocks_of(w[i]->outputs);
    const Rows* held = nullptr;
    const void* from[ROW_BLOCK];
    low_rank(w, count, rows);
    rows.of(*w[0]).gather(M);
    share((M + ROW_BLOCK - 1) / ROW_BLOCK * all, [&](int item) {
        int first = item / all * ROW_BLOCK, n = std::min(ROW_BLOCK, M - first), block = item % all, which = 0;
        for (; block >= blocks_of(w[which]->outputs); which++) block -= blocks_of(w[which]->outputs);
        const Rows* wanted = &rows.of(*w[which]);
        if (wanted != held || first != held_first) {
            held = wanted;
            held_first = first;
            for (int r = 0; r < n; r++) from[r] = (*held)[first + r];
        }
        bool last = block + 1 == blocks_of(w[which]->outputs) && which + 1 < count;  // what is read after it lies elsewhere
        multiply(*w[which], index, block, from, n, tile, BLOCK, last ? block_at(*w[which + 1], index, 0) : nullptr);
        add_low_rank(*w[which], index, which, first, n, block * BLOCK, tile);
        then(which, first, n, block * BLOCK, tile);
    });
}

template <class Then> void Worker::product(const Matrix& w, const Prepared& rows, int M, Then then) {
    const Matrix* one = &w;
    products(&one, 1, 0, rows, M, [&](int, int first, int count, int column, float* tile) {
        then(first, count, column, tile);
    });
}

// Logits of the wanted rows, normed, of so many first tokens: then(first of them, how many, first column, tile).
template <class Then> void Worker::head_product(const float* norm, int outputs, Then then) {
    Prepared rows = prepare(in.wanted_count, m.hidden, 1u << kind_of(m.head), [&](int i, float* out) {
        rms_norm_row(x(in.wanted[i]), norm, m.hidden, m.eps, out);
    });
    Matrix plain = m.head;  // its change is of the wanted rows and not of the step's
    plain.slot = 0;
    plain.outputs = outputs;
    bool changed = in.chunk_adapter && m.head.slot;
    if (changed) low_rank_of(m.head, in.wanted_count, rows, in.wanted);
    product(plain, rows, in.wanted_count, [&](int first, int count, int column, float* tile) {
        for (int r = 0; r < count && changed; r++)
            add_change(change(m.head, in.wanted[first + r]), m.head, 0, low(first + r, 0), column, tile + r * BLOCK);
        then(first, count, column, tile);
    });
}

}  // namespace sk
