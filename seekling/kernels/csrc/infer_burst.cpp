// Several tokens of one sequence in one call: drafts, the step that checks them, the draws, and again.
//
// Nothing is computed otherwise than step by step: the same rows, the same draws at the same places, so the same tokens.
#include "infer_sample.h"
#include "infer_step_parts.h"
#include <chrono>

namespace sk {

SK_API void sk_infer_step(Runner* run, const Model* model, const Step* in);
SK_API void sk_infer_draft(Runner* run, const Model* model, const Step* in, const Drafting* d);

constexpr int LONGEST = 4, SHORTEST = 2;  // of what prompt look-up finds again (seekling/engine/speculate.py)

// What followed the last tokens where they stood before, the longest end first, of equals the latest.  Returns how many drafts.
static int look_up(const int32_t* ids, int count, int most, int32_t* draft) {
    int best = SHORTEST - 1, after = 0;
    for (int end = count - 1; end >= SHORTEST && best < LONGEST; end--) {
        int same = 0;
        while (same < LONGEST && same < end && ids[end - 1 - same] == ids[count - 1 - same]) same++;
        if (same > best) best = same, after = end;
    }
    if (!after) return 0;
    for (int i = 0; i < most; i++) draft[i] = ids[after + i % (count - after)];  // behind the end the repetition goes on
    return most;
}

SK_API void sk_infer_burst(Runner* run, const Model* model, Burst* b) {
    using Clock = std::chrono::steady_clock;
    int64_t width = padded(model->vocabulary), size = padded(model->hidden);
    run->checked.ensure((1 + b->drafts) * width * 4);
    float* logits = run->checked.as<float>();
    std::vector<int32_t> wanted((size_t)b->drafts + 1);
    for (size_t i = 0; i < wanted.size(); i++) wanted[i] = (int32_t)i;
    int32_t rows[2] = {0, 0}, start = 0, offset = 0, room = b->page_count * PAGE;
    Step step{};
    step.chunk_rows = rows;
    step.chunk_start = &start;
    step.page_offset = &offset;
    step.pages = b->pages;
    step.chunk_adapter = b->adapter >= 0 ? &b->adapter : nullptr;
    step.logits_stride = width;
    step.chunks = 1;
    step.threads = b->threads;
    b->count = b->round_count = b->damaged = 0;
    bool over = false;
    for (auto began = Clock::now(); b->count < b->enough && !over;) {
        int32_t* drafted = b->ids + b->known;
        int most = std::min({b->drafts, b->most - b->count - 1, room - b->length}), k = 0;
        bool tried = most > 0 && !b->look && b->unread > 0;
        if (most > 0 && b->look) k = look_up(b->ids, b->known, most, drafted);
        if (tried) {
            rows[1] = b->unread;
            start = b->length - 1 - b->unread;
            int32_t last = b->unread - 1;
            step.ids = drafted - b->unread;
            step.wanted = &last;
            step.wanted_count = 1;
            step.logits = step.raw_states = nullptr;
            step.routed = nullptr;
            Drafting drafting{b->states, &room, drafted, nullptr, most, b->least};
            sk_infer_draft(run, model, &step, &drafting);
            while (k < most && drafted[k] >= 0) k++;
            b->unread = 0;
        }
        rows[1] = step.wanted_count = 1 + k;
        start = b->length - 1;
        step.ids = drafted - 1;
        step.wanted = wanted.data();
        step.logits = logits;
        step.raw_states = b->states ? b->states + b->unread * size : nullptr;
        step.routed = b->round_count ? nullptr : b->routed;
        sk_infer_step(run, model, &step);
        int right = 0;
        for (int i = 0; i <= k; i++) {
            float* row = logits + i * width;
            Draw d{};
            d.row = row;
            d.raw = b->logprobs ? row : nullptr;
            d.uniform = b->uniforms ? b->uniforms[b->count] : 0.0;
            d.top_p = b->top_p;
            d.temperature = b->temperature;
            d.min_p = b->min_p;
            d.top_k = b->top_k;
            d.size = model->vocabulary;
            d.token = -1;
            draw_row(d);
            if (d.token < 0) {
                b->damaged = over = true;
                break;
            }
            bool foretold = i < k && drafted[i] == d.token;
            right += foretold;
            drafted[i] = d.token;
            if (b->logprobs) b->logprobs[b->count] = d.logprob;
            b->count++, b->known++, b->length++, b->unread += b->states != nullptr;
            over = std::find(b->stops, b->stops + b->stop_count, d.token) != b->stops + b->stop_count;
            if (over || !foretold) break;
        }
        auto now = Clock::now();
        b->seconds[b->round_count] = std::chrono::duration<float>(now - began).count();
        b->rounds[2 * b->round_count] = tried && !k ? -1 : k;
        b->rounds[2 * b->round_count + 1] = right;
        b->round_count++;
        began = now;
        over = over || __atomic_load_n(b->hurry, __ATOMIC_RELAXED);
    }
}

}  // namespace sk
