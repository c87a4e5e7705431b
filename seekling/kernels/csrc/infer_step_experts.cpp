// The experts half of a layer: router, choice, gate and up of every chosen expert, down and weighted sum (DeepSeek-V3 §2.1.2).
#include "infer_step_parts.h"

namespace sk {

void Worker::moe(const Layer& layer) {
    bool shared = layer.gate.outputs > 0;
    unsigned kinds = 1u << kind_of(layer.router) | 1u << kind_of(layer.expert_gate);
    if (shared) kinds |= 1u << kind_of(layer.gate);
    if (layer.shared_gate.outputs) kinds |= 1u << kind_of(layer.shared_gate);
    Prepared rows = normed(layer.mlp_norm, kinds);
    product(layer.router, rows, M, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++)
            std::memcpy(run.scores.as<float>() + (int64_t)(first + r) * padded(m.experts) + column, tile + r * BLOCK, BLOCK * 4);
    });
    if (layer.shared_gate.outputs)
        product(layer.shared_gate, rows, M, [&](int first, int count, int, const float* tile) {
            for (int r = 0; r < count; r++) run.shared_scale.as<float>()[first + r] = 1.0f / (1.0f + std::exp(-tile[r * BLOCK]));
        });
    team.meet();
    for (int r = team.first(M); r < team.end(M); r++) choose(layer, r);
    team.meet();
    group_choices();
    // Gate and up: blocks of 32 channels of an expert, or of the shared ones.
    int kind = kind_of(layer.expert_down), each = blocks_of(layer.expert_gate.outputs), shared_each = shared ? blocks_of(layer.gate.outputs) : 0;
    int64_t stride = row_bytes(format_of(kind), layer.expert_gate.outputs);
    int shared_kind = shared ? kind_of(layer.down) : 0;
    int64_t shared_stride = shared ? row_bytes(format_of(shared_kind), layer.gate.outputs) : 0;
    std::vector<int> active;
    for (int e = 0; e < m.experts; e++)
        if (expert_first[(size_t)e] < expert_first[(size_t)e + 1]) active.push_back(e);
    constexpr int CHUNK = 2;  // pieces taken at once
    int chunks = (each + CHUNK - 1) / CHUNK, shared_chunks = (shared_each + CHUNK - 1) / CHUNK;
    int jobs = (int)active.size() * chunks + shared_chunks;
    share(jobs, [&](int job) {
        bool routed = job >= shared_chunks;
        int e = routed ? active[(size_t)((job - shared_chunks) / chunks)] : 0;
        int item = (routed ? (job - shared_chunks) % chunks : job) * CHUNK, stop = std::min(item + CHUNK, routed ? each : shared_each);
        int begin = routed ? expert_first[(size_t)e] : 0, end = routed ? expert_first[(size_t)e + 1] : M;
        for (int first = begin; first < end; first += ROW_BLOCK)
            for (int i = item; i < stop; i++) {
                int count = std::min(ROW_BLOCK, end - first);
                if (routed) glu(layer.expert_gate, layer.expert_up, e, i, rows.of(layer.expert_gate), choices.data(), first, count, kind, run.hidden, stride, m.clamped);
                else glu(layer.gate, layer.up, 0, i, rows.of(layer.gate), nullptr, first, count, shared_kind, run.shared_hidden, shared_stride, false);
            }
    });
    team.meet();
    // Down: a thread owns columns of x, so that a row's experts are added in the order of their numbers.
    const void* from[ROW_BLOCK];
    int items = blocks_of(layer.expert_down.outputs);
    share(items, [&](int item) {
        int column = item * BLOCK;
        auto add_tile = [&](const Matrix& w, int index, int count, auto row_of, auto weight_of) {
            multiply(w, index, item, from, count, tile, BLOCK);
            for (int r = 0; r < count; r++)
                for (int b = 0; b < 2; b++) {
                    float* at = x(row_of(r)) + column + b * LANES;
                    store16(at, fma(sk::all(weight_of(r)), load16(tile + r * BLOCK + b * LANES), load16(at)));
                }
        };
        for (int e : active)
            for (int first = expert_first[(size_t)e]; first < expert_first[(size_t)e + 1]; first += ROW_BLOCK) {
                int count = std::min(ROW_BLOCK, expert_first[(size_t)e + 1] - first);
                for (int r = 0; r < count; r++) from[r] = run.hidden.data + (first + r) * stride;
                add_tile(layer.expert_down, e, count, [&](int r) { return choices[(size_t)(first + r)].row; },
                         [&](int r) { return choices[(size_t)(first + r)].weight; });
            }
        for (int first = 0; shared && first < M; first += ROW_BLOCK) {
            int count = std::min(ROW_BLOCK, M - first);
            for (int r = 0; r < count; r++) from[r] = run.shared_hidden.data + (first + r) * shared_stride;
            add_tile(layer.down, 0, count, [&](int r) { return first + r; }, [&](int r) { return layer.shared_gate.outputs ? run.shared_scale.as<float>()[first + r] : 1.0f; });
        }
    });
    team.meet();
}

// The router's choice for one row: K experts and their weights, in the order of their numbers.
void Worker::choose(const Layer& layer, int row) {
    int E = m.experts, K = m.experts_per_token;
    float* score = run.scores.as<float>() + (int64_t)row * padded(E);
    std::vector<float> choice((size_t)E);
    if (m.scoring == SIGMOID) {
        for (int e = 0; e < E; e++) score[e] = 1.0f / (1.0f + std::exp(-score[e]));
    } else if (m.scoring == SOFTMAX) {
        float most = *std::max_element(score, score + E), sum = 0;
        for (int e = 0; e < E; e++) sum += score[e] = std::exp(score[e] - most);
        for (int e = 0; e < E; e++) score[e] /= sum;
    }
    for (int e = 0; e < E; e++) choice[(size_t)e] = score[e] + (layer.router_bias ? layer.router_bias[e] : 0.0f);
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
    struct Chosen { int32_t expert; float weight; }* out = (Chosen*)run.chosen.data + (int64_t)row * K;
    float sum = 0, most = -INFINITY;
    for (int e = 0, n = 0; e < E; e++)
        if (taken[(size_t)e]) {
            out[n++] = {e, score[e]};
            most = std::max(most, score[e]);
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
    struct Chosen { int32_t expert; float weight; }* chosen = (Chosen*)run.chosen.data;
    int all = M * m.experts_per_token;
    expert_first.assign((size_t)m.experts + 1, 0);
    choices.resize((size_t)all);
    for (int i = 0; i < all; i++) expert_first[(size_t)chosen[i].expert + 1]++;
    for (int e = 0; e < m.experts; e++) expert_first[(size_t)e + 1] += expert_first[(size_t)e];
    std::vector<int> at(expert_first.begin(), expert_first.end() - 1);
    for (int i = 0; i < all; i++) {
        int slot = at[(size_t)chosen[i].expert]++;
        choices[(size_t)slot] = {i / m.experts_per_token, slot, chosen[i].weight};
    }
}

}  // namespace sk
