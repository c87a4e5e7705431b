// The experts half of a layer: router, choice, gate and up of every chosen expert, down and weighted sum (DeepSeek-V3 §2.1.2).
#include "infer_step_parts.h"

namespace sk {

void Worker::moe(const Layer& layer) {
    unsigned kinds = 1u << kind_of(layer.router) | 1u << kind_of(layer.expert_gate) | 1u << kind_of(layer.expert_up);
    if (layer.gate.outputs) kinds |= 1u << kind_of(layer.gate) | 1u << kind_of(layer.up);
    if (layer.shared_gate.outputs) kinds |= 1u << kind_of(layer.shared_gate);
    Prepared rows = normed(layer.mlp_norm, kinds);
    route(layer, rows);
    const Matrix* both[2] = {&layer.gate, &layer.up};
    if (layer.gate.outputs) low_rank(both, 2, rows);
    low_rank_of_experts(layer.expert_gate, rows.of(layer.expert_gate), true);
    expert_hidden(layer, rows);
    meet_before_down(layer);
    low_rank_of_experts(layer.expert_down, {run.hidden.data, row_bytes(layer.expert_down.format, padded(layer.expert_down.inputs))}, false);
    if (layer.down.outputs) {
        Prepared hidden;
        hidden.kinds[kind_of(layer.down)] = {run.shared_hidden.data, row_bytes(layer.down.format, padded(layer.down.inputs))};
        const Matrix* down = &layer.down;
        low_rank(&down, 1, hidden);
    }
    add_experts(layer);
    meet_before_layer();
}

// Scores, choices, and the choices sorted by expert.
void Worker::route(const Layer& layer, const Prepared& rows) {
    product(layer.router, rows, M, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(run.scores.as<float>() + (int64_t)(first + r) * padded(m.experts) + column, tile + r * BLOCK, BLOCK * 4);
    });
    if (layer.shared_gate.outputs)
        product(layer.shared_gate, rows, M, [&](int first, int count, int, const float* tile) {
            for (int r = 0; r < count; r++) run.shared_scale.as<float>()[first + r] = 1.0f / (1.0f + std::exp(-tile[r * BLOCK]));
        });
    meet_before(layer.gate);
    bool alone = M <= ALONE;  // a row or two every thread does for itself
    if (alone) own_chosen.resize((size_t)(M * m.experts_per_token));
    chosen = alone ? own_chosen.data() : run.chosen.as<Chosen>();
    for (int r = alone ? 0 : team.first(M); r < (alone ? M : team.end(M)); r++) choose(layer, r);
    if (!alone) meet_before(layer.gate);
    if (in.routed) report_choices();
    group_choices();
}

// The choices of the rows whose logits are asked for, out to the caller.
void Worker::report_choices() {
    int K = m.experts_per_token, layers = 0;
    for (int l = 0; l < m.layer_count; l++) layers += m.layers[l].moe != 0;
    for (int i = team.first(in.wanted_count); i < team.end(in.wanted_count); i++)
        std::memcpy(in.routed + ((int64_t)i * layers + moe_layers) * K, chosen + (int64_t)in.wanted[i] * K,
                    (size_t)K * sizeof(Chosen));
    moe_layers++;
}

// Gate and up of the shared experts and of every chosen one, two blocks of channels at a time.
void Worker::expert_hidden(const Layer& layer, const Prepared& rows) {
    constexpr int RUN = 2;
    int blocks = blocks_of(layer.expert_gate.outputs), shared_blocks = blocks_of(layer.gate.outputs);
    int jobs = (blocks + RUN - 1) / RUN, shared_jobs = (shared_blocks + RUN - 1) / RUN;
    auto part = [&](const Matrix& gate, const Matrix& up, const Matrix& down, int expert, const Choice* choices, int begin, int end, int job,
                    Buffer& out, int then) {
        int kind = kind_of(down), stop = std::min((job + 1) * RUN, blocks_of(gate.outputs));
        int64_t stride = row_bytes(format_of(kind), gate.outputs);
        for (int first = begin; first < end; first += ROW_BLOCK)
            for (int block = job * RUN; block < stop; block++)
                glu(gate, up, expert, block, rows, choices, first, std::min(ROW_BLOCK, end - first), kind, out, stride,
                    choices && m.clamped, block + 1 == blocks_of(gate.outputs) ? block_at(layer.expert_gate, then, 0) : nullptr);
    };
    share(shared_jobs + (int)active.size() * jobs, [&](int i) {
        if (i < shared_jobs) return part(layer.gate, layer.up, layer.down, 0, nullptr, 0, M, i, run.shared_hidden, active[0]);
        size_t at = (size_t)((i - shared_jobs) / jobs);
        int e = active[at];
        part(layer.expert_gate, layer.expert_up, layer.expert_down, e, choices.data(), expert_first[(size_t)e], expert_first[(size_t)e + 1],
             (i - shared_jobs) % jobs, run.hidden, active[std::min(at + 1, active.size() - 1)]);
    });
}

constexpr int RUNS = 4;  // of columns, that a thread begins with

// Blocks of columns of one expert's down that are read before the next expert's: memory in long pieces where rows are few.
int Worker::columns_at_once(const Layer& layer) const {
    return M > FEW ? 1 : std::max(1, blocks_of(layer.expert_down.outputs) / (RUNS * team.size));
}

void Worker::meet_before_down(const Layer& layer) {
    if (M > FEW) return team.meet();
    int many = columns_at_once(layer), items = (blocks_of(m.hidden) + many - 1) / many;
    int64_t bytes = std::min<int64_t>((int64_t)many * layer.expert_down.step, LATER);
    meet_reading(block_at(layer.expert_down, active[0], team.first(items) * many), std::min<int64_t>(SOON, bytes), bytes);
}

// Down: a thread owns columns of x, so that a row's experts are added in the order of their numbers, the shared ones last.
void Worker::add_experts(const Layer& layer) {
    const void* from[ROW_BLOCK];
    auto add = [&](const Matrix& w, int index, int block, const uint8_t* next, const Buffer& hidden, int begin, int end, auto row_of,
                   auto weight_of) {
        int64_t stride = row_bytes(w.format, padded(w.inputs));
        bool stacked = &w == &layer.expert_down;
        for (int first = begin; first < end; first += ROW_BLOCK) {
            int count = std::min(ROW_BLOCK, end - first);
            for (int r = 0; r < count; r++) from[r] = hidden.data + (first + r) * stride;
            multiply(w, index, block, from, count, tile, BLOCK, next);
            if (stacked) add_low_rank_of_expert(w, index, first, count, block * BLOCK, tile);
            else add_low_rank(w, index, 0, first, count, block * BLOCK, tile);
            for (int r = 0; r < count; r++)
                for (int i = 0; i < BLOCK; i += LANES) {
                    float* at = x(row_of(first + r)) + block * BLOCK + i;
                    store16(at, fma(all(weight_of(first + r)), load16(tile + r * BLOCK + i), load16(at)));
                }
        }
    };
    auto chosen_row = [&](int i) { return choices[(size_t)i].row; };
    auto chosen_weight = [&](int i) { return choices[(size_t)i].weight; };
    auto same_row = [](int r) { return r; };
    auto shared_weight = [&](int r) { return layer.shared_gate.outputs ? run.shared_scale.as<float>()[r] : 1.0f; };
    int blocks = blocks_of(m.hidden), many = columns_at_once(layer);
    share((blocks + many - 1) / many, [&](int item) {
        int begin = item * many, end = std::min(begin + many, blocks);
        const uint8_t* below = block_at(layer.expert_down, active[0], end);  // what is read after all of these
        const uint8_t* last = layer.down.outputs ? block_at(layer.down, 0, begin) : below;
        for (size_t i = 0; i < active.size(); i++) {
            int e = active[i];
            const uint8_t* next = i + 1 < active.size() ? block_at(layer.expert_down, active[i + 1], begin) : last;
            for (int block = begin; block < end; block++)
                add(layer.expert_down, e, block, block + 1 < end ? nullptr : next, run.hidden, expert_first[(size_t)e],
                    expert_first[(size_t)e + 1], chosen_row, chosen_weight);
        }
        if (layer.down.outputs)
            for (int block = begin; block < end; block++)
                add(layer.down, 0, block, block + 1 < end ? nullptr : below, run.shared_hidden, 0, M, same_row, shared_weight);
    });
}

// The router's choice for one row: K experts and their weights, in the order of their numbers.
void Worker::choose(const Layer& layer, int row) {
    int E = m.experts, K = m.experts_per_token;
    const float* logits = run.scores.as<float>() + (int64_t)row * padded(E);
    std::vector<float> score(logits, logits + E), choice((size_t)E);
    if (m.scoring == SIGMOID) {
        for (float& s : score) s = 1.0f / (1.0f + std::exp(-s));
    } else if (m.scoring == SOFTMAX) {
        float most = *std::max_element(score.begin(), score.end()), sum = 0;
        for (float& s : score) sum += s = std::exp(s - most);
        for (float& s : score) s /= sum;
    }
    for (int e = 0; e < E; e++) choice[(size_t)e] = score[(size_t)e] + (layer.router_bias ? layer.router_bias[e] : 0.0f);
    if (m.group_count > 1) {  // keep the groups whose best scores sum highest
        int size = E / m.group_count;
        std::vector<float> worth((size_t)m.group_count), best((size_t)size);
        for (int g = 0; g < m.group_count; g++) {
            std::copy(choice.begin() + g * size, choice.begin() + (g + 1) * size, best.begin());
            std::sort(best.begin(), best.end(), std::greater<float>());
            for (int i = 0; i < std::min(m.group_best, size); i++) worth[(size_t)g] += best[(size_t)i];
        }
        std::vector<char> kept((size_t)m.group_count, 0);
        for (int n = 0; n < m.groups_kept; n++) {
            int top = -1;
            for (int g = 0; g < m.group_count; g++)
                if (!kept[(size_t)g] && (top < 0 || worth[(size_t)g] > worth[(size_t)top])) top = g;
            kept[(size_t)top] = 1;
        }
        for (int e = 0; e < E; e++)
            if (!kept[(size_t)(e / size)]) choice[(size_t)e] = -INFINITY;
    }
    std::vector<char> taken((size_t)E, 0);
    for (int n = 0; n < K; n++) {
        int top = -1;
        for (int e = 0; e < E; e++)
            if (!taken[(size_t)e] && (top < 0 || choice[(size_t)e] > choice[(size_t)top])) top = e;
        taken[(size_t)top] = 1;
    }
    Chosen* out = chosen + (int64_t)row * K;
    float sum = 0, most = -INFINITY;
    for (int e = 0, n = 0; e < E; e++)
        if (taken[(size_t)e]) {
            out[n++] = {e, score[(size_t)e]};
            most = std::max(most, score[(size_t)e]);
        }
    if (m.scoring == SOFTMAX_OF_CHOSEN)
        for (int n = 0; n < K; n++) out[n].weight = std::exp(out[n].weight - most);
    for (int n = 0; n < K; n++) sum += out[n].weight;
    bool normalise = m.normalise || m.scoring == SOFTMAX_OF_CHOSEN;
    float divisor = !normalise ? 1.0f : m.norm_min < 0 ? sum + 1e-20f : std::max(sum, m.norm_min);
    for (int n = 0; n < K; n++) out[n].weight = out[n].weight / divisor * m.routed_scale;
}

// All choices sorted by expert, rows in order.
void Worker::group_choices() {
    int all = M * m.experts_per_token;
    expert_first.assign((size_t)m.experts + 1, 0);
    choices.resize((size_t)all);
    for (int i = 0; i < all; i++) expert_first[(size_t)chosen[i].expert + 1]++;
    for (int e = 0; e < m.experts; e++) expert_first[(size_t)e + 1] += expert_first[(size_t)e];
    std::vector<int> at(expert_first.begin(), expert_first.end() - 1);
    for (int i = 0; i < all; i++) {
        int slot = at[(size_t)chosen[i].expert]++;
        choices[(size_t)slot] = {i / m.experts_per_token, chosen[i].weight};
    }
    active.clear();
    for (int e = 0; e < m.experts; e++)
        if (expert_first[(size_t)e] < expert_first[(size_t)e + 1]) active.push_back(e);
}

}  // namespace sk
