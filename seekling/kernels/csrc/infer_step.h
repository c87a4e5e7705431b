// One thread's walk through a step, and what the threads share while they walk.
//
// All threads run the same code.  A phase hands each its part of the outputs; between phases they meet.  Activations for a
// matrix product are prepared (normed, quantised) once by shared work, or, for a row or two, by every thread for itself, which
// is quicker than waiting.  Shapes: M rows, D hidden, H heads.
#pragma once
#include "infer_attention.h"
#include <memory>

namespace sk {

constexpr int ROW_BLOCK = 96;  // rows that pass while a pair of weight blocks stays in the cache
constexpr int ALONE = 2;       // rows every thread prepares for itself
constexpr int FEW = 64;        // rows of a step that only writes answers on
constexpr int SOON = 16384;    // bytes asked for before the threads meet: memory is busy while they do
constexpr int LATER = 262144;  // bytes asked for while one waits for the others: part of its second cache
constexpr int LOOPS = 64;      // more than twice the shared loops between two meetings

// The three shapes of activation rows.
enum Kind : int32_t { GROUPS = 0, HALVES = 1, SINGLES = 2, KINDS = 3 };
SK_INLINE Kind kind_of(const Matrix& w) { return w.format == BF16 ? HALVES : w.format == F32 ? SINGLES : GROUPS; }
SK_INLINE int format_of(int kind) { return kind == HALVES ? BF16 : kind == SINGLES ? F32 : Q8; }

struct Rows {  // activation rows of one kind
    const uint8_t* data;
    int64_t stride;
    const void* operator[](int64_t row) const { return data + row * stride; }
    // Half of what the threads wrote together lies in another core's cache: all of it is asked for at once, not met line by line.
    void gather(int rows) const {
        if (rows > ALONE) fetch(data, std::min<int64_t>(rows, ROW_BLOCK) * stride);
    }
};

struct Prepared { Rows kinds[KINDS]; const Rows& of(const Matrix& w) const { return kinds[kind_of(w)]; } };

struct Choice { int32_t row; float weight; };  // Chosen, sorted by expert

struct alignas(64) Taken {  // of a thread's run: how many items from its front (low half) and from its back
    std::atomic<uint64_t> ends{0};
};

// What outlives a step: the model and its scratch memory.
struct Runner {
    Model model;
    Barrier barrier;
    std::vector<Taken> taken;  // (LOOPS, threads)
    int rows = 0, q_width = 0, k_width = 0;
    Buffer x, prepared[KINDS], q, k, v, q_latent, queries, head_rows, low, expert_low, partials, hidden, shared_hidden, shared_scale, scores, chosen,
        position, chunk_of, first_part, guesses, draft_states, checked;
    std::vector<std::unique_ptr<Buffer>> own;  // a thread's own
    void ensure(const Step& in);

  private:
    void ensure_layers(int M, int rows);
    void ensure_chunks(const Step& in, int M);
};

// Attention work; split −1 = all of them.  Where there are fewer than threads, each has some of the latent channels.
struct Unit { int chunk, kv_head, first_query, split, begin, stop; };

class Worker {
  public:
    Worker(Runner& run, const Step& in, Team team);
    void step();
    // Entries of the MTP layer for the rows of the step, joined with `states`; then, of the wanted rows, the likeliest token and
    // its probability; their states go to run.draft_states.
    void draft(const float* states, bool of_main, Chosen* best);

  private:
    Runner& run;
    const Model& m;
    const Step& in;
    Team team;
    int M;
    float* scratch;      // one row of the widest kind, zero beyond what was written
    uint8_t* own_rows;   // prepared rows of this thread alone
    float* tile;         // (ROW_BLOCK, BLOCK) × 2
    uint8_t* opened;     // the pages of a split in bfloat16, where the cache has 8 bits
    int loops = 0;       // shared loops so far; equal in all threads
    const Layer* next = nullptr;  // behind the layer at hand
    int moe_layers = 0;  // behind us in this step
    std::vector<Unit> units;
    Chosen* chosen = nullptr;  // (M, experts a token) of the layer at hand
    std::vector<Chosen> own_chosen;
    std::vector<Choice> choices;
    std::vector<int> expert_first, active;  // where an expert's choices begin; experts that somebody chose

    float* x(int row) const { return run.x.as<float>() + (int64_t)row * padded(m.hidden); }
    int position(int row) const { return run.position.as<int>()[row]; }
    int chunk_of(int row) const { return run.chunk_of.as<int>()[row]; }
    Pages pages(int chunk, int64_t offset) const {
        return {m.pool, m.page_bytes, offset, in.pages + in.page_offset[chunk]};
    }

    template <class Do> void share(int n, Do work);
    void meet_reading(const uint8_t* at, int64_t first, int64_t most);
    void meet_before(const Matrix& w, int others = 0);
    void meet_before_down(const Layer& layer);
    int columns_at_once(const Layer& layer) const;
    template <class Make> Prepared prepare(int rows, int inputs, unsigned kinds, Make make);
    template <class Then> void products(const Matrix* const* w, int count, int index, const Prepared& rows, int M, Then then);
    template <class Then> void product(const Matrix& w, const Prepared& rows, int M, Then then);
    template <class Then> void head_products(const Matrix& w, int format_inputs, Then then);
    void add_product(const Matrix& w, const Prepared& rows);
    void add_attended(const Layer& layer, const Prepared& rows);
    void meet_before_layer();
    const LowRank* change(const Matrix& w, int row) const;
    float* low(int row, int place) const;
    void low_rank(const Matrix* const* w, int count, const Prepared& rows);
    void low_rank_of(const Matrix& w, int rows, const Prepared& prepared, const int32_t* places);
    static void add_change(const LowRank* c, const Matrix& w, int index, const float* low, int column, float* out);
    void low_rank_of_head(const Matrix& w, int row, int head, const float* x);
    void add_low_rank(const Matrix& w, int index, int place, int first, int count, int column, float* tile);
    float* expert_low(int choice) const { return run.expert_low.as<float>() + (int64_t)choice * m.most_rank; }
    void low_rank_of_experts(const Matrix& w, const Rows& rows, bool by_row);
    void add_low_rank_of_expert(const Matrix& w, int expert, int first, int count, int column, float* tile);
    template <class Then> void head_product(const float* norm, int outputs, Then then);
    Prepared normed(const float* weight, unsigned kinds);

    void embed();
    void join(const float* states, bool of_main);
    void guess(Chosen* best);
    void layer(const Layer& layer);
    void gqa(const Layer& layer);
    void place_gqa(const Layer& layer, int row, int head);
    void mla(const Layer& layer);
    void place_latent(const Layer& layer, int row);
    void place_mla_query(const Layer& layer, int row, int head);
    void absorb(const Layer& layer);
    void expand(const Layer& layer);
    void attend(const Layer& layer);
    void attend_unit(const Layer& layer, const Unit& unit);
    void split_unit(const Layer& layer, const Unit& unit, int queries, const int* first, const int* end, int from, Partial* out);
    void merged(const Layer& layer, int row, int head, float* out);
    int parts(int chunk) const;
    int queries_per_row() const { return m.attention == MLA ? m.heads : m.heads / m.kv_heads; }
    int queries_at_once() const { return m.attention == MLA ? LANES : QUERIES; }
    int value_floats() const { return m.attention == MLA ? padded(m.latent) : head_channels(m.head_dim); }
    int64_t head_bytes() const { return m.cache_int8 ? gqa_head_bytes8(m.head_dim) : gqa_head_bytes(m.head_dim); }
    Pages open(const Pages& pages, int from, int last);
    Partial partial(int row, int head, int part) const;

    void mlp(const Layer& layer);
    void glu(const Matrix& gate, const Matrix& up, int index, int block, const Prepared& prepared, const Choice* choices, int first, int count,
             int kind, Buffer& out, int64_t stride, bool clamped, const uint8_t* next = nullptr);
    void moe(const Layer& layer);
    void route(const Layer& layer, const Prepared& rows);
    void expert_hidden(const Layer& layer, const Prepared& rows);
    void add_experts(const Layer& layer);
    void choose(const Layer& layer, int row);
    void report_choices();
    void group_choices();
    void head();
};

}  // namespace sk
