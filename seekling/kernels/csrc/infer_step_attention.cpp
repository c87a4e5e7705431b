// The attention half of a layer: projections, rotation, writing to pages, sums over pages, output projection.
#include "infer_step_parts.h"

namespace sk {

// ---- grouped queries -----------------------------------------------------------------------------------------------------------

void Worker::gqa(const Layer& layer) {
    const Matrix* w[3] = {&layer.q, &layer.k, &layer.v};
    float* to[3] = {run.q.as<float>(), run.k.as<float>(), run.v.as<float>()};
    int width[3] = {run.q_width, run.k_width, run.k_width};
    int places = M * (m.heads + m.kv_heads), mine = team.first(places), end = team.end(places);
    auto page_of = [&](int row, int kv) { return (uint8_t*)pages(chunk_of(row), layer.cache_offset + kv * head_bytes())[position(row) / PAGE]; };
    if (M <= FEW && !m.cache_int8)  // where keys and values will go: lines that no cache holds
        for (int u = mine; u < end; u++) {
            int row = u / (m.heads + m.kv_heads), kv = u % (m.heads + m.kv_heads) - m.heads;
            if (kv >= 0) gqa_fetch(page_of(row, kv), position(row) % PAGE, m.head_dim);
        }
    Prepared rows = normed(layer.attention_norm, 1u << kind_of(layer.q) | 1u << kind_of(layer.k) | 1u << kind_of(layer.v));
    products(w, 3, 0, rows, M, [&](int which, int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(to[which] + (int64_t)(first + r) * width[which] + column, tile + r * BLOCK, BLOCK * 4);
    });
    meet_before(layer.o);
    for (int u = mine; u < end; u++) place_gqa(layer, u / (m.heads + m.kv_heads), u % (m.heads + m.kv_heads));
    team.meet();
    attend(layer);
    meet_before(layer.o);
    Prepared attended = prepare(M, m.heads * m.head_dim, 1u << kind_of(layer.o), [&](int r, float* out) {
        for (int h = 0; h < m.heads; h++) merged(layer, r, h, out + h * m.head_dim);
    });
    add_attended(layer, attended);
}

// One head of one row: norm, rotation; a query becomes bfloat16, a key and its value go to their page.
void Worker::place_gqa(const Layer& layer, int row, int head) {
    bool query = head < m.heads;
    int kv = head - m.heads, d = m.head_dim;
    const float* from = query ? run.q.as<float>() + (int64_t)row * run.q_width : run.k.as<float>() + (int64_t)row * run.k_width;
    int at = (query ? head : kv) * d;
    float v[1024];
    std::memcpy(v, from + at, (size_t)d * 4);
    const float* weight = query ? layer.q_norm : layer.k_norm;
    if (m.qk_norm == HEAD_NORM) rms_norm_row(v, weight, d, m.qk_eps, v);
    if (m.qk_norm == FULL_NORM) {
        float r = inverse_rms(from, (query ? m.heads : m.kv_heads) * d, m.qk_eps);
        for (int i = 0; i < d; i++) v[i] = v[i] * r * weight[at + i];
    }
    int64_t pos = position(row);
    rotate_row(v, m.cosines + pos * (m.rotary / 2), m.sines + pos * (m.rotary / 2), m.rotary, m.interleaved);
    if (query) {
        uint16_t* q = run.queries.as<uint16_t>() + ((int64_t)row * m.heads + head) * head_channels(d);
        for (int i = 0; i < head_channels(d); i++) q[i] = i < d ? to_bf16(v[i]) : 0;
        return;
    }
    uint8_t* page = (uint8_t*)pages(chunk_of(row), layer.cache_offset + kv * head_bytes())[(int)pos / PAGE];
    (m.cache_int8 ? gqa_store8 : gqa_store)(page, (int)pos % PAGE, v, run.v.as<float>() + (int64_t)row * run.k_width + at, d);
}

// ---- MLA, absorbed (DeepSeek-V2 §2.1.2): queries go to the latent space, the sums come back from it --------------------------------

// Where a query lies: blocks of 16 queries (token-major) of one chunk, each chunk beginning a new block.
static uint16_t* query_block(const Runner& run, const Step& in, int chunk, int query) {
    const Model& m = run.model;
    int64_t first = ((int64_t)in.chunk_rows[chunk] * m.heads) / LANES + 2 * chunk;
    return run.queries.as<uint16_t>() + (first + query / LANES) * mla_row(m.latent, m.rotary) * LANES;
}

void Worker::mla(const Layer& layer) {
    bool low_rank = m.q_latent > 0;
    const Matrix* w[2] = {low_rank ? &layer.q_a : &layer.q, &layer.kv_a};
    float* to[2] = {low_rank ? run.q_latent.as<float>() : run.q.as<float>(), run.k.as<float>()};
    int width[2] = {low_rank ? padded(m.q_latent) : run.q_width, run.k_width};
    Prepared rows = normed(layer.attention_norm, 1u << kind_of(*w[0]) | 1u << kind_of(*w[1]));
    products(w, 2, 0, rows, M, [&](int which, int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(to[which] + (int64_t)(first + r) * width[which] + column, tile + r * BLOCK, BLOCK * 4);
    });
    if (low_rank) {
        meet_before(layer.q_b);
        Prepared latents = prepare(M, m.q_latent, 1u << kind_of(layer.q_b), [&](int r, float* out) {
            rms_norm_row(run.q_latent.as<float>() + (int64_t)r * padded(m.q_latent), layer.q_norm, m.q_latent, m.qk_eps, out);
        });
        product(layer.q_b, latents, M, [&](int first, int count, int column, const float* tile) {
            for (int r = 0; r < count; r++)
                std::memcpy(run.q.as<float>() + (int64_t)(first + r) * run.q_width + column, tile + r * BLOCK, BLOCK * 4);
        });
    }
    meet_before(layer.k_b);
    int places = M * (m.heads + 1);
    for (int u = team.first(places); u < team.end(places); u++) {
        int row = u / (m.heads + 1), head = u % (m.heads + 1);
        if (head == m.heads) place_latent(layer, row);
        else place_mla_query(layer, row, head);
    }
    if (M <= ALONE) {  // where this thread will write the absorbed queries: lines that the other threads read in the last layer
        int blocks = blocks_of(m.latent);
        for (int chunk = 0; chunk < in.chunks; chunk++)
            for (int pair = team.first(blocks) * BLOCK / 2; pair < team.end(blocks) * BLOCK / 2; pair++)
                fetch_to_write(query_block(run, in, chunk, 0) + pair * 2 * LANES);
    }
    meet_before(layer.k_b);
    absorb(layer);
    team.meet();
    attend(layer);
    meet_before(layer.v_b);
    expand(layer);
    Prepared attended = prepare(M, m.heads * m.head_dim, 1u << kind_of(layer.o), [&](int r, float* out) {
        std::memcpy(out, run.q.as<float>() + (int64_t)r * run.q_width, (size_t)m.heads * m.head_dim * 4);
    });
    add_attended(layer, attended);
}

void Worker::place_latent(const Layer& layer, int row) {
    float* from = run.k.as<float>() + (int64_t)row * run.k_width;
    int64_t pos = position(row);
    float key[1024];
    std::memcpy(key, from + m.latent, (size_t)m.rotary * 4);
    rotate_row(key, m.cosines + pos * (m.rotary / 2), m.sines + pos * (m.rotary / 2), m.rotary, m.interleaved);
    rms_norm_row(from, layer.k_norm, m.latent, m.qk_eps, from);  // may clear lanes of the key, which is copied
    uint8_t* page = (uint8_t*)pages(chunk_of(row), layer.cache_offset)[(int)pos / PAGE];
    if (m.cache_int8) return mla_store8(page, (int)pos % PAGE, from, key, m.latent, m.rotary);
    uint16_t* to = (uint16_t*)page + (pos % PAGE) * mla_row(m.latent, m.rotary);
    for (int i = 0; i < m.latent; i++) to[i] = to_bf16(from[i]);
    for (int i = 0; i < m.rotary; i++) to[m.latent + i] = to_bf16(key[i]);
}

void Worker::place_mla_query(const Layer& layer, int row, int head) {
    float* q = run.q.as<float>() + (int64_t)row * run.q_width + head * (m.nope + m.rotary);
    int64_t pos = position(row);
    int chunk = chunk_of(row), query = (row - in.chunk_rows[chunk]) * m.heads + head;
    float key[1024];
    std::memcpy(key, q + m.nope, (size_t)m.rotary * 4);
    rotate_row(key, m.cosines + pos * (m.rotary / 2), m.sines + pos * (m.rotary / 2), m.rotary, m.interleaved);
    uint16_t* block = query_block(run, in, chunk, query);
    int lane = query % LANES;
    for (int i = 0; i < m.rotary; i++) block[(m.latent + i) / 2 * 32 + lane * 2 + (m.latent + i) % 2] = to_bf16(key[i]);
    std::memcpy(scratch, q, (size_t)m.nope * 4);
    for (int i = m.nope; i < padded(m.nope); i++) scratch[i] = 0;
    low_rank_of_head(layer.k_b, row, head, scratch);
    quantise_row(layer.k_b.format, scratch, m.nope, run.head_rows.data + ((int64_t)row * m.heads + head) * row_bytes(layer.k_b.format, m.nope));
}

// A product with one matrix a head; rows are in head_rows (M, H): then(head, first row, rows, column, columns, tile).  Blocks are
// taken in the order in which they lie: head after head, or the first of all heads, then the second.
template <class Then> void Worker::head_products(const Matrix& w, int inputs, Then then) {
    int64_t stride = row_bytes(w.format, inputs);
    int each = blocks_of(w.outputs), all = m.heads * each;
    bool braided = w.stride < w.step;
    const void* from[ROW_BLOCK];
    share((M + ROW_BLOCK - 1) / ROW_BLOCK * all, [&](int item) {
        int first = item / all * ROW_BLOCK, n = std::min(ROW_BLOCK, M - first);
        int head = braided ? item % m.heads : item % all / each, block = braided ? item % all / m.heads : item % each;
        for (int r = 0; r < n; r++) from[r] = run.head_rows.data + ((int64_t)(first + r) * m.heads + head) * stride;
        multiply(w, head, block, from, n, tile, BLOCK);
        add_low_rank(w, head, head, first, n, block * BLOCK, tile);
        then(head, first, n, block * BLOCK, std::min(BLOCK, w.outputs - block * BLOCK), tile);
    });
}

void Worker::absorb(const Layer& layer) {
    head_products(layer.k_b, m.nope, [&](int head, int first, int count, int column, int columns, const float* tile) {
        for (int r = 0; r < count; r++) {
            int chunk = chunk_of(first + r), query = (first + r - in.chunk_rows[chunk]) * m.heads + head;
            uint16_t* block = query_block(run, in, chunk, query) + column * LANES;
            uint16_t halves[BLOCK];
            for (int i = 0; i < BLOCK; i += LANES) store_bf16(halves + i, load16(tile + r * BLOCK + i));
            uint16_t* to = block + query % LANES * 2;  // two channels side by side; behind an odd one the key begins
            for (int i = 0; i + 1 < columns; i += 2) std::memcpy(to + i * LANES, halves + i, 4);
            if (columns % 2) to[(columns - 1) * LANES] = halves[columns - 1];
        }
    });
}

// The results lie where the queries did.
void Worker::expand(const Layer& layer) {
    int64_t stride = row_bytes(layer.v_b.format, m.latent);
    int places = M * m.heads;
    for (int u = team.first(places); u < team.end(places); u++) {
        for (int i = m.latent; i < padded(m.latent); i++) scratch[i] = 0;
        merged(layer, u / m.heads, u % m.heads, scratch);
        low_rank_of_head(layer.v_b, u / m.heads, u % m.heads, scratch);
        quantise_row(layer.v_b.format, scratch, m.latent, run.head_rows.data + (int64_t)u * stride);
    }
    meet_before(layer.v_b);
    head_products(layer.v_b, m.latent, [&](int head, int first, int count, int column, int columns, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(run.q.as<float>() + (int64_t)(first + r) * run.q_width + head * m.head_dim + column, tile + r * BLOCK, (size_t)columns * 4);
    });
    meet_before(layer.o);
}

// ---- sums over pages, both kinds -------------------------------------------------------------------------------------------------

int Worker::parts(int chunk) const {
    int rows = in.chunk_rows[chunk + 1] - in.chunk_rows[chunk];
    return parts_of(rows, in.chunk_start[chunk] + rows);
}

Partial Worker::partial(int row, int head, int part) const {
    int64_t index = ((int64_t)run.first_part.as<int>()[row] + part) * m.heads + head;
    return {run.partials.as<float>() + index * partial_floats(value_floats()), value_floats()};
}

void Worker::attend(const Layer& layer) {
    int kv_heads = m.attention == MLA ? 1 : m.kv_heads;
    units.clear();  // the same in all threads
    for (int chunk = 0; chunk < in.chunks; chunk++) {
        int rows = in.chunk_rows[chunk + 1] - in.chunk_rows[chunk], splits = parts(chunk);
        for (int q = 0; q < rows * queries_per_row(); q += queries_at_once())
            for (int kv = 0; kv < kv_heads; kv++)
                for (int split = 0; split < splits; split++) units.push_back({chunk, kv, q, walks(rows) ? -1 : split, 0, m.latent});
    }
    int whole = (int)units.size(), pieces = m.attention == MLA && whole ? std::min(team.size / whole, blocks_of(m.latent)) : 1;
    for (int i = 0; i < whole && pieces > 1; i++) {
        Unit part = units[(size_t)i];
        if (part.split < 0) continue;
        for (int piece = 0; piece < pieces; piece++) {
            part.begin = blocks_of(m.latent) * piece / pieces * BLOCK;
            part.stop = std::min(m.latent, blocks_of(m.latent) * (piece + 1) / pieces * BLOCK);
            if (piece) units.push_back(part);
            else units[(size_t)i] = part;
        }
    }
    share((int)units.size(), [&](int i) { attend_unit(layer, units[(size_t)i]); });
}

void Worker::attend_unit(const Layer& layer, const Unit& unit) {
    int per_row = queries_per_row(), row0 = in.chunk_rows[unit.chunk];
    int all = (in.chunk_rows[unit.chunk + 1] - row0) * per_row, count = std::min(queries_at_once(), all - unit.first_query);
    int first[LANES], end[LANES], lowest = 1 << 30, last = 0;
    Partial out[LANES], next[LANES];
    float* room = scratch;
    int size = value_floats();
    for (int i = 0; i < count; i++) {
        int query = unit.first_query + i, row = row0 + query / per_row;
        end[i] = position(row) + 1;
        first[i] = layer.window ? std::max(0, end[i] - layer.window) : 0;
        lowest = std::min(lowest, first[i]);
        last = std::max(last, end[i]);
        out[i] = partial(row, unit.kv_head * per_row + query % per_row, unit.split < 0 ? 0 : unit.split);
        next[i] = {room + i * partial_floats(size), size};
        if (!unit.begin) out[i].sum() = 0;
    }
    if (unit.split >= 0) {
        int from = unit.split * SPLIT;
        if (from < last && from + SPLIT > lowest) split_unit(layer, unit, count, first, end, from, out);
        return;
    }
    for (int from = lowest / SPLIT * SPLIT; from < last; from += SPLIT) {
        split_unit(layer, unit, count, first, end, from, next);
        for (int i = 0; i < count; i++) merge(out[i], next[i]);
    }
}

// The pages that hold tokens from .. last of a split; of an 8-bit cache this thread's copy of them.
Pages Worker::open(const Pages& pages, int from, int last) {
    static const int32_t in_order[SPLIT / PAGE] = {0, 1, 2, 3, 4, 5, 6, 7};
    if (!m.cache_int8) return pages;
    bool mla = m.attention == MLA;
    int64_t bytes = mla ? (int64_t)PAGE * mla_row(m.latent, m.rotary) * 2 : gqa_head_bytes(m.head_dim);
    int count = std::min(SPLIT / PAGE, (last - from + PAGE - 1) / PAGE);
    for (int i = 0; i < count; i++) {
        const uint8_t* page = pages[from / PAGE + i];
        if (mla) mla_open(page, m.latent, m.rotary, opened + i * bytes);
        else gqa_open(page, m.head_dim, opened + i * bytes);
    }
    return {opened, bytes, 0, in_order - from / PAGE};
}

void Worker::split_unit(const Layer& layer, const Unit& unit, int count, const int* first, const int* end, int from, Partial* out) {
    int last = *std::max_element(end, end + count);
    if (m.attention == MLA) {
        const uint16_t* queries = query_block(run, in, unit.chunk, unit.first_query);
        mla_split(open(pages(unit.chunk, layer.cache_offset), from, last), m.latent, m.rotary, m.attention_scale, queries, first, end, count,
                  from, out, unit.begin, unit.stop);
        return;
    }
    int per_row = queries_per_row(), channels = head_channels(m.head_dim);
    Query q[QUERIES];
    for (int i = 0; i < count; i++) {
        int query = unit.first_query + i, row = in.chunk_rows[unit.chunk] + query / per_row;
        int head = unit.kv_head * per_row + query % per_row;
        q[i] = {run.queries.as<uint16_t>() + ((int64_t)row * m.heads + head) * channels, first[i], end[i]};
    }
    Pages at = pages(unit.chunk, layer.cache_offset + unit.kv_head * head_bytes());
    gqa_split(open(at, from, last), m.head_dim, m.attention_scale, q, count, from, out);
}

// The attention output of one head: its splits merged in order, divided by the sum (with the head's sink in it).
void Worker::merged(const Layer& layer, int row, int head, float* out) {
    float room[1024 + 16];
    Partial sum{room, value_floats()};
    sum.sum() = 0;
    int parts = this->parts(chunk_of(row));
    for (int part = 0; part < parts; part++) merge(sum, partial(row, head, part));
    float divisor = sum.sum();
    if (layer.sinks) {
        float most = std::max(sum.largest(), layer.sinks[head]);
        float scale = std::exp(sum.largest() - most);
        divisor = (divisor * scale + std::exp(layer.sinks[head] - most)) / scale;
    }
    int n = m.attention == MLA ? m.latent : m.head_dim;
    for (int i = 0; i < n; i++) out[i] = room[i] / divisor;
}

}  // namespace sk
