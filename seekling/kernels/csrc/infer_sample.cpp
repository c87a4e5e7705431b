// From logits to tokens: greedy, temperature, top-k, top-p, min-p and the log-probability, each row by one thread, in a few passes
// and without sorting the vocabulary.  The meaning is seekling/engine/sampler.py's: the inverse of the cumulative distribution in
// vocabulary order.  A row's token depends on nothing but the row, its settings and its uniform number.
#include "infer_simd.h"
#include <omp.h>

namespace sk {

namespace {

constexpr int BLOCK = 256;            // tokens whose largest logit, and whose weight, is kept
constexpr float LEAST = 1.7e-38f;     // weights from here on count; exp16 gives e^-87 = 1.65e-38 for all below
constexpr size_t SORTED = 512;        // so many candidates are sorted, of more the half that matters is looked for first

struct Candidate { float x, weight; int32_t id; };

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

}  // namespace

struct Draw {            // mirrored in seekling/kernels/sampling.py
    const float* row;    // logits after penalties, bias and constraint
    const float* raw;    // the model's own, for the log-probability; null = not wanted
    double uniform, top_p;
    float temperature, min_p;
    int32_t top_k, size;
    int32_t token;       // before: −1, or the token whatever the logits say; after: the token, or −1 where the largest logit is no number
    float logprob;       // after
};

namespace {

struct Sampler {
    std::vector<float> most;              // of each block
    std::vector<double> ends;             // weight up to the end of each block
    std::vector<Candidate> found;

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

    // Among all tokens of at least this weight.
    int from_all(const Row& row, float top, const Draw& d, float temperature) {
        float least = std::max(d.min_p, LEAST);
        double target = below(d.uniform, total_of(row, top, temperature, least));
        int b = (int)(std::upper_bound(ends.begin(), ends.end(), target) - ends.begin());
        double sum = b ? ends[(size_t)b - 1] : 0;
        int i = b * BLOCK, last = -1;
        row.each(b, [&](Floats v) {
            float w[16];
            store16(w, weigh(v, top, temperature, all(least)));
            for (int j = 0; j < 16 && sum <= target; j++, i++)
                if (w[j] > 0) { sum += w[j]; last = i; }
        });
        return last;
    }

    // Candidates: all tokens down to some distance from the best, enough for top-k or top-p.
    void gather(const Row& row, float top, const Draw& d, float temperature, double enough) {
        for (float reach : {4.0f, 8.0f, 16.0f, 32.0f, 87.0f}) {
            float least = top - reach * temperature;
            double sum = 0;
            found.clear();
            for (int b = 0; b < row.blocks(); b++) {
                if (most[(size_t)b] < least) continue;
                for (int i = b * BLOCK; i < std::min(row.size, (b + 1) * BLOCK); i++)
                    if (row.x[i] >= least && row.x[i] > -INFINITY) found.push_back({row.x[i], 0.0f, i});
            }
            for (size_t i = 0; i < found.size(); i += 16) {
                float w[16];
                size_t n = std::min<size_t>(16, found.size() - i);
                for (size_t j = 0; j < 16; j++) w[j] = j < n ? found[i + j].x : top;
                store16(w, weigh(load16(w), top, temperature, all(LEAST)));
                for (size_t j = 0; j < n; j++) sum += found[i + j].weight = w[j];
            }
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
        double sum = 0;
        for (const Candidate& c : found) sum += c.weight >= least ? c.weight : 0;
        double target = below(d.uniform, sum);
        int last = -1;
        sum = 0;
        for (const Candidate& c : found)
            if (c.weight >= least) {
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

SK_API void sk_infer_draw(Draw* draws, int64_t count, int64_t threads) {
    if (count == 1) return own().draw(draws[0]);
#pragma omp parallel for num_threads((int)threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) own().draw(draws[i]);
}

SK_API int64_t sk_infer_draw_size() { return sizeof(Draw); }

}  // namespace sk
