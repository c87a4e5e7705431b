// Runs the inference kernels on another processor against numbers that portable_kernels.py wrote on this one.
#include "infer_step.h"
#include <cstdio>

using namespace sk;

extern "C" int64_t sk_infer_pack(int64_t, const float*, const float*, int64_t, int64_t, int64_t, uint8_t*, int64_t);
extern "C" void sk_infer_multiply(const Matrix*, const float*, int64_t, float*, int64_t);
extern "C" Runner* sk_infer_open();
extern "C" void sk_infer_close(Runner*);
extern "C" void sk_infer_step(Runner*, const Model*, const Step*);
extern "C" void sk_infer_draft(Runner*, const Model*, const Step*, const Drafting*);

template <class T> static std::vector<T> read(FILE* file, size_t count) {
    std::vector<T> out(count);
    if (std::fread(out.data(), sizeof(T), count, file) != count) std::exit(2);
    return out;
}

static int64_t number(FILE* file) { return read<int64_t>(file, 1)[0]; }

// Blocks of memory with the pointers in them set right.
struct Image {
    std::vector<std::vector<uint8_t>> blocks;
    explicit Image(FILE* file) {
        blocks.resize((size_t)number(file));
        for (auto& block : blocks) block = read<uint8_t>(file, (size_t)number(file));
        for (int64_t n = number(file); n > 0; n--) {
            auto p = read<int64_t>(file, 4);  // block, place, block it points into, place there
            uint8_t* to = blocks[(size_t)p[2]].data() + p[3];
            std::memcpy(blocks[(size_t)p[0]].data() + p[1], &to, sizeof to);
        }
    }
    template <class T> T* at(size_t block) { return (T*)blocks[block].data(); }
};

static int check_model(FILE* file) {
    auto name = read<char>(file, (size_t)number(file));
    Image image(file);
    Model* model = image.at<Model>((size_t)number(file));
    Runner* run = sk_infer_open();
    float worst = 0, largest = 0;
    for (int64_t n = number(file); n > 0; n--) {
        Image arrays(file);
        Step* step = arrays.at<Step>(0);
        sk_infer_step(run, model, step);
        int64_t rows = number(file), stride = number(file), vocabulary = number(file);
        auto want = read<float>(file, (size_t)(rows * stride));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < vocabulary; i++) {
                float difference = std::fabs(step->logits[r * stride + i] - want[(size_t)(r * stride + i)]);
                if (!(difference <= worst)) worst = difference;
                largest = std::max(largest, std::fabs(want[(size_t)(r * stride + i)]));
            }
    }
    Image arrays(file);
    Drafting* drafting = arrays.at<Drafting>(2);
    sk_infer_draft(run, model, arrays.at<Step>(0), drafting);
    auto tokens = read<int32_t>(file, (size_t)number(file));
    int other = 0;
    for (size_t i = 0; i < tokens.size(); i++) other += drafting->tokens[i] != tokens[i];
    sk_infer_close(run);
    bool bad = !(worst <= 0.02f * largest) || other;
    std::printf("%.*s: logits up to %.2f, worst difference %.1e, %d of %zu drafted tokens differ%s\n", (int)name.size(), name.data(), (double)largest,
                (double)worst, other, tokens.size(), bad ? "  FAILED" : "");
    return bad;
}

int main(int, char** argv) {
    FILE* file = std::fopen(argv[1], "rb");
    if (!file) return 2;
    int failed = 0, cases = read<int32_t>(file, 1)[0];
    for (int i = 0; i < cases; i++) {
        auto head = read<int32_t>(file, 5);  // format, outputs, inputs, rows, bytes
        int format = head[0], outputs = head[1], inputs = head[2], rows = head[3], width = blocks_of(outputs) * BLOCK;
        auto weight = read<float>(file, (size_t)outputs * inputs);
        auto data = read<uint8_t>(file, (size_t)head[4]);
        auto x = read<float>(file, (size_t)rows * padded(inputs)), want = read<float>(file, (size_t)rows * outputs);
        std::vector<uint8_t> packed(data.size(), 0);
        sk_infer_pack(format, weight.data(), nullptr, 0, outputs, inputs, packed.data(), block_bytes(format, inputs));
        std::vector<float> y((size_t)rows * width);
        Matrix w{data.data(), nullptr, 0, format, outputs, inputs, (int32_t)block_bytes(format, inputs)};
        sk_infer_multiply(&w, x.data(), rows, y.data(), 1);
        float worst = 0;
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outputs; o++) {
                float difference = std::fabs(y[(size_t)r * width + o] - want[(size_t)r * outputs + o]);
                if (!(difference <= worst)) worst = difference;  // keeps a NaN
            }
        int differ = 0;
        for (size_t b = 0; b < data.size(); b++) differ += packed[b] != data[b];
        bool bad = !(worst <= 1e-3f) || differ;
        failed += bad;
        std::printf("format %d, %d x %d, %d rows: worst difference %.1e, %d packed bytes differ%s\n", format, outputs, inputs, rows,
                    (double)worst, differ, bad ? "  FAILED" : "");
    }
    for (int64_t n = number(file); n > 0; n--) failed += check_model(file);
    return failed ? 1 : 0;
}
