// Drafts by the model's own multi-token-prediction layer (DeepSeek-V3 §2.2 and §5.4.3).
//
// Its entry at position i joins the main model's state of token i with the embedding of token i + 1 and foretells token i + 2.
// Entries of true tokens come from true states; a longer draft goes on from the layer's own state, and what it leaves in the
// cache is overwritten by true entries later.
#include "infer_step_parts.h"
#include <omp.h>

namespace sk {

void Worker::draft(const float* states, bool of_main, Chosen* best) {
    join(states, of_main);
    layer(m.layers[m.layer_count]);
    if (in.wanted_count) guess(best);
}

// x = M · [norm(embedding); norm(state)], or the state first.
void Worker::join(const float* states, bool of_main) {
    const Draft& d = m.draft;
    int D = m.hidden;
    Prepared rows = prepare(M, 2 * D, 1u << kind_of(d.join), [&](int r, float* out) {
        auto put_token = [&](float* at) {
            dequantise_row(m.embedding, in.ids[r], at);
            rms_norm_row(at, d.token_norm, D, m.eps, at);
        };
        auto put_state = [&](float* at) {
            std::memcpy(at, states + (int64_t)r * padded(D), (size_t)D * 4);
            if (of_main && d.after_norm) rms_norm_row(at, m.final_norm, D, m.eps, at);
            rms_norm_row(at, d.state_norm, D, m.eps, at);
        };
        if (d.state_first) put_state(out), put_token(out + D);  // in this order: a norm clears a few lanes behind its end
        else put_token(out), put_state(out + D);
    });
    product(d.join, rows, M, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++) std::memcpy(x(first + r) + column, tile + r * BLOCK, BLOCK * 4);
    });
    team.meet();
}

void Worker::guess(Chosen* best) {
    int vocabulary = m.draft.vocabulary ? std::min(m.draft.vocabulary, m.vocabulary) : m.vocabulary;
    int64_t width = padded(m.vocabulary), size = padded(m.hidden);
    float* guesses = run.guesses.as<float>();
    head_product(m.draft.head_norm, vocabulary, [&](int first, int count, int column, const float* tile) {
        for (int r = 0; r < count; r++) std::memcpy(guesses + (first + r) * width + column, tile + r * BLOCK, BLOCK * 4);
    });
    team.meet();
    for (int i = team.first(in.wanted_count); i < team.end(in.wanted_count); i++) {
        const float* row = guesses + i * width;
        auto lanes = [&](int j, float rest) { return first_lanes(load16(row + j), vocabulary - j, rest); };
        Floats most = all(-INFINITY), sum = zeros();
        for (int j = 0; j < vocabulary; j += LANES) most = larger(most, lanes(j, -INFINITY));
        float top = largest(most);
        for (int j = 0; j < vocabulary; j += LANES) sum = add(sum, exp16(sub(lanes(j, -INFINITY), all(top))));
        int token = 0;
        while (token + 1 < vocabulary && row[token] != top) token++;
        best[i] = {token, 1.0f / total(sum)};
        std::memcpy(run.draft_states.as<float>() + i * size, x(in.wanted[i]), (size_t)size * 4);
    }
}

// ---- called from Python --------------------------------------------------------------------------------------------------------

SK_API void sk_infer_draft(Runner* run, const Model* model, const Step* in, const Drafting* d) {
    int C = in->chunks, size = padded(model->hidden);
    std::vector<int32_t> of((size_t)C), ids, rows, starts, offsets, adapters, wanted;  // of: the chunk that each one left is
    std::vector<float> worth((size_t)C, 1.0f);
    std::vector<Chosen> best((size_t)C);
    for (int c = 0; c < C; c++) of[(size_t)c] = c;
    std::fill(d->tokens, d->tokens + (int64_t)C * d->most, -1);
    run->model = *model;
    run->guesses.ensure((int64_t)C * padded(model->vocabulary) * 4);
    run->draft_states.ensure((int64_t)C * size * 4);
    Step step = *in;
    const float* states = d->states;
    float* own = run->draft_states.as<float>();
    for (int n = 0; n == 0 || (n < d->most && !of.empty()); n++) {
        run->ensure(step);
#pragma omp parallel num_threads(in->threads)
        {
            Worker worker(*run, step, Team{run->barrier, omp_get_thread_num(), omp_get_num_threads()});
            worker.draft(states, n == 0, best.data());
        }
        if (d->most == 0) return;
        std::vector<int32_t> left, new_starts, new_offsets, new_adapters;
        ids.clear();
        for (size_t i = 0; i < of.size(); i++) {
            int c = of[i], next = step.chunk_start[i] + step.chunk_rows[i + 1] - step.chunk_rows[i];
            worth[(size_t)c] *= best[i].weight;
            if (!(worth[(size_t)c] >= d->least)) continue;
            d->tokens[(int64_t)c * d->most + n] = best[i].expert;
            if (d->chances) d->chances[(int64_t)c * d->most + n] = best[i].weight;
            if (next >= d->room[c]) continue;
            std::memmove(own + (int64_t)left.size() * size, own + (int64_t)i * size, (size_t)size * 4);
            left.push_back(c);
            ids.push_back(best[i].expert);
            new_starts.push_back(next);
            new_offsets.push_back(step.page_offset[i]);
            if (step.chunk_adapter) new_adapters.push_back(step.chunk_adapter[i]);
        }
        of.swap(left);
        starts.swap(new_starts);
        offsets.swap(new_offsets);
        adapters.swap(new_adapters);
        rows.resize(of.size() + 1);
        wanted.resize(of.size());
        for (size_t i = 0; i <= of.size(); i++) rows[i] = (int)i;
        for (size_t i = 0; i < of.size(); i++) wanted[i] = (int)i;
        step.ids = ids.data();
        step.chunk_rows = rows.data();
        step.chunk_start = starts.data();
        step.page_offset = offsets.data();
        if (step.chunk_adapter) step.chunk_adapter = adapters.data();
        step.wanted = wanted.data();
        step.chunks = step.wanted_count = (int)of.size();
        states = own;
    }
}

}  // namespace sk
