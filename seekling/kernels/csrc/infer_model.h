// What a decoder is to the native runner: plain structures of pointers and sizes, filled by seekling/kernels/infer.py, and what
// the threads of a step share.  Shapes: M rows (tokens of the step), D hidden, H heads, L kv latent, R rotary, E experts.
#pragma once
#include "infer_matmul.h"
#include <atomic>
#include <cstdlib>
#include <sched.h>

namespace sk {

constexpr int PAGE = 32;    // tokens a page (seekling/engine/runner.py)
constexpr int SPLIT = 256;  // tokens one attention sum covers; longer contexts are merged from these, always in order

enum AttentionKind : int32_t { GQA = 0, MLA = 1 };
enum QKNorm : int32_t { NO_NORM = 0, HEAD_NORM = 1, FULL_NORM = 2 };
enum Scoring : int32_t { SOFTMAX = 0, SIGMOID = 1, SOFTMAX_OF_CHOSEN = 2 };

struct Layer {  // mirrored in infer.py
    const float* attention_norm;
    const float* mlp_norm;
    Matrix q, k, v, o;             // GQA; MLA without q_lora uses q and o
    Matrix q_a, q_b, kv_a;         // MLA
    Matrix k_b, v_b;               // MLA, stacks over heads: (L outputs, N inputs) and (V outputs, L inputs)
    const float* q_norm;           // GQA: QKNorm; MLA: norm of the query latent
    const float* k_norm;           // GQA: QKNorm; MLA: norm of the kv latent
    const float* sinks;            // (H) or null
    Matrix gate, up, down;         // dense MLP, or the shared experts (outputs 0 = none)
    Matrix shared_gate;            // one output: sigmoid(shared_gate · x) multiplies the shared experts; outputs 0 = none
    Matrix router;
    const float* router_bias;      // (E) added for the choice, or null
    Matrix expert_gate, expert_up, expert_down;  // stacks over experts
    int64_t cache_offset;          // bytes of this layer's part in a page
    int32_t window;                // tokens a query sees, itself included; 0 = all
    int32_t moe;
    int32_t kind;                  // AttentionKind; must be the model's
    int32_t reserved;
};

struct LowRank {  // an adapter's change of one matrix, or of a stack; mirrored in infer_model.py
    const float* a;              // (rank, inputs padded to 32)
    const float* b;              // (rank, outputs padded to 32): Bᵀ with the scale in it
    int64_t a_stride, b_stride;  // floats from one matrix of a stack to the next; 0 = all share it
    int32_t rank, reserved;      // 0 = unchanged
};

struct Draft {  // what a multi-token-prediction layer (DeepSeek-V3 §2.2) has beside its decoder layer; mirrored in infer_model.py
    Matrix join;              // (D outputs, 2D inputs); outputs 0 = the model does not draft
    const float* token_norm;  // of the next token's embedding
    const float* state_norm;  // of the state before it
    const float* head_norm;
    int32_t state_first;      // the state comes first in what is joined
    int32_t after_norm;       // the main model's state goes through the final norm before
    int32_t vocabulary;       // it foretells one of so many first tokens; 0 = of all
    int32_t reserved;
};

struct Model {
    const Layer* layers;           // layer_count of them, and that of the draft
    Draft draft;
    Matrix embedding, head;
    const float* final_norm;
    const float* cosines;          // (positions, rotary/2)
    const float* sines;
    uint8_t* pool;
    const LowRank* const* adapters;  // of each adapter its changes by slot
    int64_t page_bytes;
    int32_t layer_count, hidden, width_max, vocabulary;
    int32_t attention, heads, kv_heads, head_dim;      // head_dim: of GQA; of MLA the value dim
    int32_t nope, rotary, latent, q_latent;            // rotary: channels that turn (GQA: the first of a head)
    int32_t interleaved, qk_norm, experts, experts_per_token;
    int32_t expert_width, scoring, normalise, group_count;
    int32_t groups_kept, group_best, clamped, most_rank;  // clamped: experts have gpt-oss's activation
    int32_t cache_int8, reserved[3];                     // keys, values and latents as 8 bits with a scale a token; else bfloat16
    float eps, qk_eps, attention_scale, routed_scale;
    float norm_min;                                      // least sum of expert weights to divide by; negative = add 1e-20
    float swiglu_alpha, swiglu_limit, reserved_float;
};

struct Chosen { int32_t expert; float weight; };  // one of a row's experts; mirrored in native_runner.py

struct Step {
    const int32_t* ids;            // (M)
    const int32_t* chunk_rows;     // (chunks + 1): where each chunk's rows begin
    const int32_t* chunk_start;    // (chunks): position of its first row
    const int32_t* page_offset;    // (chunks): where its page table begins in `pages`
    const int32_t* pages;
    const int32_t* chunk_adapter;  // (chunks): number of its adapter or −1; null where nobody has one
    const int32_t* wanted;         // (wanted_count): rows whose logits are asked for
    float* logits;                 // (wanted_count, logits_stride)
    float* states;                 // (wanted_count, hidden padded to 32) final-normed states in place of logits, or null
    float* raw_states;             // (M, hidden padded to 32) states of all rows before the final norm, or null
    Chosen* routed;                // (wanted_count, MoE layers, experts a token), or null: nobody asks what the routers chose
    int64_t logits_stride;         // at least the vocabulary rounded up to 32
    int32_t chunks, wanted_count, threads, reserved;
};

// Tokens drafted after the last row of each chunk of a Step, whose rows are entries of the MTP layer: their ids come one token
// after the states they are joined with.  Mirrored in infer_model.py.
struct Drafting {
    const float* states;  // (M, hidden padded to 32) raw states of the main model
    const int32_t* room;  // (chunks): entries the chunk's pages hold
    int32_t* tokens;      // (chunks, most): the draft, −1 behind its end
    float* chances;       // (chunks, most): probability the layer gives each, or null
    int32_t most;         // 0: only the entries are made
    float least;          // a draft ends before the token whose chances multiply to less
};

// Several tokens of one sequence in one call (infer_burst.cpp).  Mirrored in infer_model.py.
struct Burst {
    int32_t* ids;             // (known + most + drafts): the newest of the sequence; the last is not computed yet; what is drawn follows
    const int32_t* pages;     // (page_count)
    const double* uniforms;   // (most): what draws each token; null = greedy
    const int32_t* stops;     // (stop_count): tokens that end it
    const int32_t* hurry;     // not 0 = somebody waits: no round begins any more
    float* states;            // (unread + most + drafts, hidden padded to 32): raw states that the MTP layer has not read; null = not kept
    float* logprobs;          // (most), or null
    Chosen* routed;           // (1 + drafts, MoE layers, experts a token): of the first round, or null
    int32_t* rounds;          // (most, 2): drafts of each round, −1 = tried and none was likely enough; how many were right
    float* seconds;           // (most): of each round
    double top_p;
    float temperature, min_p;
    float least;              // a draft of the MTP layer ends before the token whose chances multiply to less
    int32_t top_k, known, length, page_count, stop_count;  // length: tokens of the sequence
    int32_t unread;           // rows of `states` at first, and at the end
    int32_t enough, most;     // no round begins behind so many tokens; room for what is drawn
    int32_t drafts;           // most drafted tokens of a round
    int32_t look;             // drafts are looked up among `ids`, which then hold the whole sequence; else the MTP layer makes them
    int32_t adapter, threads;
    int32_t count, round_count, damaged;  // out: tokens drawn behind `known`, rounds, whether the last row held no numbers
};

// Threads of one step meet here.  They spin, for the wait is shorter than a system call, and give way when it is not.
// Meanwhile idle() may do a little, and says whether it did.
struct Barrier {
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> phase{0};
    template <class Idle> void wait(int size, Idle idle) {
        if (size == 1) return;
        int now = phase.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            phase.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase.load(std::memory_order_acquire) == now; spins++) {
            if (idle()) continue;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            if (spins > 2000) sched_yield();
        }
    }
};

struct Team {
    Barrier& barrier;
    int me, size;
    void meet() const { meet([] { return false; }); }
    template <class Idle> void meet(Idle idle) const { barrier.wait(size, idle); }
    int first(int64_t items) const { return (int)(items * me / size); }
    int end(int64_t items) const { return (int)(items * (me + 1) / size); }
};

// Grows, never shrinks; 64-byte aligned; new memory is zero, so that paddings are, and not taken before it is used.
struct Buffer {
    uint8_t* data = nullptr;
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(whole); }
    template <class T> T* as() const { return (T*)data; }
    void ensure(int64_t bytes) {
        if (bytes <= size) return;
        std::free(whole);
        whole = std::calloc((size_t)bytes + 64, 1);
        data = (uint8_t*)(((uintptr_t)whole + 63) / 64 * 64);
        size = bytes;
    }

  private:
    void* whole = nullptr;
    int64_t size = 0;
};

}  // namespace sk
