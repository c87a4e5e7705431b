// A token from a row of logits (infer_sample.cpp).
#pragma once
#include "common.h"

namespace sk {

struct Draw {            // mirrored in seekling/kernels/sampling.py
    const float* row;    // logits after penalties, bias and constraint
    const float* raw;    // the model's own, for the log-probability; null = not wanted
    double uniform, top_p;
    float temperature, min_p;
    int32_t top_k, size;
    uint64_t mark;       // the watermark's seed in this place
    int32_t layers, candidates;  // its layers, 0 = no mark, and how many tokens it may weigh anew
    int32_t token;       // before: −1, or the token whatever the logits say; after: the token, or −1 where the largest logit is no number
    float logprob;       // after
};

void draw_row(Draw& d);

}  // namespace sk
