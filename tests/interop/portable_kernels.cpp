// Runs the inference kernels on another processor against numbers that portable_kernels.py wrote on this one.
#include "infer_matmul.h"
#include <cstdio>

using namespace sk;

extern "C" void sk_infer_pack(int64_t, const float*, const float*, int64_t, int64_t, int64_t, uint8_t*, int64_t);
extern "C" void sk_infer_multiply(const Matrix*, const float*, int64_t, float*, int64_t);

template <class T> static std::vector<T> read(FILE* file, size_t count) {
    std::vector<T> out(count);
    if (std::fread(out.data(), sizeof(T), count, file) != count) std::exit(2);
    return out;
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
    return failed ? 1 : 0;
}
