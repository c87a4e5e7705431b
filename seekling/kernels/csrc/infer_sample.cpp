// From logits to tokens: greedy, temperature, top-k, top-p, min-p and the log-probability, each row by one thread, in a few passes
// and without sorting the vocabulary.  The meaning is seekling/engine/sampler.py's: the inverse of the cumulative distribution in
// vocabulary order.  A row's token depends on nothing but the row, its settings and its uniform number.
#include "infer_sample.h"
#include "infer_simd.h"
#include <omp.h>

namespace sk {

namespace {

constexpr int BLOCK = 256;            // tokens whose largest logit, and whose weight, is kept
constexpr float LEAST = 1.7e-38f;     // weights from here on count; exp16 gives e^-87 = 1.65e-38 for all below
constexpr size_t MARKED = 64;         // most tokens a watermark may weigh anew
constexpr size_t SORTED = 512;        // so many candidates are sorted, of more the half that matters is looked for first

struct Candidate { float x; int32_t id; double weight; };

bool likelier(const Candidate& a, const Candidate& b) { return a.x > b.x || (a.x == b.x && a.id < b.id); }

struct Row {
    const float* x;
    int size;
    int blocks() const { return (size + BLOCK - 1) / BLOCK; }
    // work(sixteen logits, −infinity behind the end) for one block
    template <class Do> void each(int block, Do work) const {
        int end = std::min(size, (block + 1) * BLOCK);
        for (int i = block * BLOCK; i < end; i += 16) {
            if (i + 16 <= size) work(load16(x + i));
            else {
                float rest[16];
                for (int j = 0; j < 16; j++) rest[j] = i + j < size ? x[i + j] : -INFINITY;
                work(load16(rest));
            }
        }
    }
};

struct Sampler {
    std::vector<float> most;              // of each block
    std::vector<double> ends;             // weight up to the end of each block
    std::vector<Candidate> found;
    std::vector<Candidate> marked;        // the likeliest by id, with their weights under the watermark; empty = no mark

    // Largest logit; not a number counts as infinity.
    float largest_of(const Row& row) {
        most.resize((size_t)row.blocks());
        float top = -INFINITY;
        for (int b = 0; b < row.blocks(); b++) {
            Floats m = all(-INFINITY);
            row.each(b, [&](Floats v) { m = larger(smaller(v, all(INFINITY)), m); });
            top = std::max(top, most[(size_t)b] = largest(m));
        }
        return top;
    }

    SK_INLINE Floats weigh(Floats v, float top, float temperature, Floats least) {
        return at_least(exp16(div(sub(v, all(top)), all(temperature))), least);
    }

    // Σ weights of at least `least`, in the order of blocks.
    double total_of(const Row& row, float top, float temperature, float least) {
        ends.resize((size_t)row.blocks());
        double sum = 0;
        for (int b = 0; b < row.blocks(); b++) {
            Floats s = zeros();
            row.each(b, [&](Floats v) { s = add(s, weigh(v, top, temperature, all(least))); });
            ends[(size_t)b] = sum += total(s);
        }
        return sum;
    }

    int first_of(const Row& row, float value) {
        for (int b = 0; b < row.blocks(); b++)
            if (most[(size_t)b] == value)
                for (int i = b * BLOCK; i < std::min(row.size, (b + 1) * BLOCK); i++)
                    if (row.x[i] == value) return i;
        return -1;
    }

    // work(token, weight) for each token of a block
    template <class Do> void weights_of(const Row& row, int block, float top, float temperature, float least, Do work) {
        int i = block * BLOCK;
        auto mark = std::lower_bound(marked.begin(), marked.end(), i, [](const Candidate& c, int id) { return c.id < id; });
        row.each(block, [&](Floats v) {
            float w[16];
            store16(w, weigh(v, top, temperature, all(least)));
            for (int j = 0; j < 16; j++, i++) {
                bool in = mark != marked.end() && mark->id == i;
                work(i, in ? mark++->weight : (double)w[j]);
            }
        });
    }

    // Among all tokens of at least this weight.
    int from_all(const Row& row, float top, const Draw& d, float temperature) {
        float least = std::max(d.min_p, LEAST);
        double whole = total_of(row, top, temperature, least);
        if (d.layers > 0) whole = mark_all(row, top, d, temperature, least);
        double target = below(d.uniform, whole);
        int b = (int)(std::upper_bound(ends.begin(), ends.end(), target) - ends.begin());
        double sum = b ? ends[(size_t)b - 1] : 0;
        int last = -1;
        weights_of(row, b, top, temperature, least, [&](int i, double w) {
            if (w > 0 && sum <= target) { sum += w; last = i; }
        });
        return last;
    }

    // Tournament sampling among the likeliest of `found` (seekling/engine/watermark.py, `Watermark.weights`).
    void mark_found(const Draw& d) {
        marked.resize(std::min(found.size(), (size_t)d.candidates));
        std::partial_sort_copy(found.begin(), found.end(), marked.begin(), marked.end(), likelier);
        double whole = 0;
        for (const Candidate& c : marked) whole += c.weight;
        uint64_t bits[MARKED];
        for (size_t i = 0; i < marked.size(); i++) {
            uint64_t h = ((uint64_t)marked[i].id + 1) * 0x9E3779B97F4A7C15u + d.mark;
            h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
            h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
            bits[i] = h ^ (h >> 31);
            marked[i].weight /= whole;
        }
        for (int layer = 0; layer < d.layers; layer++) {
            double ones = 0;
            for (size_t i = 0; i < marked.size(); i++) ones += (bits[i] >> layer & 1) ? marked[i].weight : 0;
            for (size_t i = 0; i < marked.size(); i++) marked[i].weight *= 1 + (double)(bits[i] >> layer & 1) - ones;
        }
        for (Candidate& c : marked) c.weight *= whole;
        std::sort(marked.begin(), marked.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
    }

    // `mark_found` among all tokens; then the ends of blocks are those of the new weights. Returns the last of them.
    double mark_all(const Row& row, float top, const Draw& d, float temperature, float least) {
        float from = -INFINITY;
        if (most.size() > (size_t)d.candidates) {  // so many tokens reach the so-manieth largest of the blocks' maxima
            std::vector<float> maxima = most;
            std::nth_element(maxima.begin(), maxima.begin() + d.candidates - 1, maxima.end(), std::greater<float>());
            from = maxima[(size_t)d.candidates - 1];
        }
        collect(row, from);
        weigh_found(top, temperature, least);
        mark_found(d);
        for (size_t b = ends.size() - 1; b > 0; b--) ends[b] -= ends[b - 1];
        for (size_t i = 0; i < marked.size(); i++) {
            int b = marked[i].id / BLOCK;
            double& sum = ends[(size_t)b] = 0;
            weights_of(row, b, top, temperature, least, [&](int, double w) { sum += w; });
            while (i + 1 < marked.size() && marked[i + 1].id / BLOCK == b) i++;
        }
        for (size_t b = 1; b < ends.size(); b++) ends[b] += ends[b - 1];
        return ends.back();
    }

    // Candidates: all tokens from this logit on that may come.
    void collect(const Row& row, float from) {
        found.clear();
        for (int b = 0; b < row.blocks(); b++) {
            if (most[(size_t)b] < from) continue;
            for (int i = b * BLOCK; i < std::min(row.size, (b + 1) * BLOCK); i++)
                if (row.x[i] >= from && row.x[i] > -INFINITY) found.push_back({row.x[i], i, 0});
        }
    }

    // Their weights; returns the sum.
    double weigh_found(float top, float temperature, float least) {
        double sum = 0;
        for (size_t i = 0; i < found.size(); i += 16) {
            float w[16];
            size_t n = std::min<size_t>(16, found.size() - i);
            for (size_t j = 0; j < 16; j++) w[j] = j < n ? found[i + j].x : top;
            store16(w, weigh(load16(w), top, temperature, all(least)));
            for (size_t j = 0; j < n; j++) sum += found[i + j].weight = w[j];
        }
        return sum;
    }

    // Candidates: all tokens down to some distance from the best, enough for top-k or top-p.
    void gather(const Row& row, float top, const Draw& d, float temperature, double enough) {
        for (float reach : {4.0f, 8.0f, 16.0f, 32.0f, 87.0f}) {
            collect(row, top - reach * temperature);
            double sum = weigh_found(top, temperature, LEAST);
            if (d.top_k > 0 ? found.size() >= (size_t)d.top_k : sum >= enough) return;
        }
    }

    // Cut the candidates to the fewest likeliest whose weights reach `enough`.
    void cut(double enough) {
        size_t first = 0, end = found.size();
        double before = 0;
        while (end - first > SORTED) {  // halves: either the end lies in the likelier one, or all of it is kept
            size_t middle = first + (end - first) / 2;
            std::nth_element(found.begin() + (long)first, found.begin() + (long)middle, found.begin() + (long)end, likelier);
            double sum = 0;
            for (size_t i = first; i < middle; i++) sum += found[i].weight;
            if (before + sum >= enough) end = middle;
            else { before += sum; first = middle; }
        }
        std::sort(found.begin() + (long)first, found.begin() + (long)end, likelier);
        for (; first < end && (before < enough || first == 0); first++) before += found[first].weight;
        found.resize(first);
    }

    int from_few(const Row& row, float top, const Draw& d, float temperature) {
        double whole = d.top_k > 0 ? 0 : total_of(row, top, temperature, LEAST);
        gather(row, top, d, temperature, d.top_p * whole);
        if (d.top_k > 0 && found.size() > (size_t)d.top_k) {
            std::nth_element(found.begin(), found.begin() + d.top_k, found.end(), likelier);
            found.resize((size_t)d.top_k);
        }
        if (d.top_p < 1) {
            if (d.top_k > 0)
                for (const Candidate& c : found) whole += c.weight;
            cut(d.top_p * whole);
        }
        std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
        float least = std::max(d.min_p, LEAST);
        for (Candidate& c : found) c.weight = c.weight >= least ? c.weight : 0;
        if (d.layers > 0) {
            mark_found(d);
            auto place = found.begin();
            for (const Candidate& c : marked) {
                while (place->id != c.id) place++;
                place->weight = c.weight;
            }
        }
        double sum = 0;
        for (const Candidate& c : found) sum += c.weight;
        double target = below(d.uniform, sum);
        int last = -1;
        sum = 0;
        for (const Candidate& c : found)
            if (c.weight > 0) {
                last = c.id;
                if ((sum += c.weight) > target) break;
            }
        return last;
    }

    // u · total, and never the total itself, behind which there is no token.
    static double below(double u, double total) { return std::min(std::max(u * total, 0.0), std::nextafter(total, 0.0)); }

    void draw(Draw& d) {
        Row row{d.row, d.size};
        float top = largest_of(row);
        if (!(std::fabs(top) < INFINITY)) {
            d.token = -1;
            return;
        }
        marked.clear();
        double normaliser = 0;
        if (d.raw) {
            Row raw{d.raw, d.size};
            float own = d.raw == d.row ? top : plain_largest(raw);
            normaliser = (double)own + std::log(total_of(raw, own, 1.0f, LEAST));
        }
        if (d.token < 0) {
            float temperature = std::max(d.temperature, 1e-37f);
            if (d.temperature == 0) d.token = first_of(row, top);
            else if (d.top_k <= 0 && d.top_p >= 1) d.token = from_all(row, top, d, temperature);
            else d.token = from_few(row, top, d, temperature);
        }
        if (d.raw) d.logprob = (float)((double)d.raw[d.token] - normaliser);
    }

  private:
    static float plain_largest(const Row& row) {
        Floats m = all(-INFINITY);
        for (int b = 0; b < row.blocks(); b++) row.each(b, [&](Floats v) { m = larger(v, m); });
        return largest(m);
    }
};

Sampler& own() {  // a thread's scratch memory
    static thread_local Sampler sampler;
    return sampler;
}

}  // namespace

void draw_row(Draw& d) { own().draw(d); }

SK_API void sk_infer_draw(Draw* draws, int64_t count, int64_t threads) {
    if (count == 1) return own().draw(draws[0]);
#pragma omp parallel for num_threads((int)threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) own().draw(draws[i]);
}

SK_API int64_t sk_infer_draw_size() { return sizeof(Draw); }

}  // namespace sk
