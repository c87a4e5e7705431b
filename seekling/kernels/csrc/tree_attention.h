// What both element types of the attention over trees of tokens share: sizes and the tree.
//
// Tokens lie in one stream without padding.  It is cut into segments; segments belong to groups; a group's first segment is the
// prefix of its others: each of them sees the prefix and itself, causally.  A document is a group of one segment; a question
// with several answers is a group of 1 + answers, whose question is computed once.
// Layouts: q, o (N, H, P), k, v (N, G, P), lse (N, H), cos and sin (positions, R/2).  Query head h reads key-value head h / (H/G).
// The first R channels of q and k come unrotated.
#pragma once
#include "attention.h"

namespace sk {
namespace tree {

struct Shape { int64_t N, H, G, P, R, window; float scale; bool interleave; };
struct Segment { int32_t start, length, position; };

struct Tree {
    int64_t groups;
    const int32_t* first;  // (groups + 1) numbers of segments
    const Segment* segments;
    int64_t longest = 0, widest = 0;  // segment; keys that one sees
    Tree(int64_t groups, const int32_t* first, const int32_t* flat) : groups(groups), first(first), segments((const Segment*)flat) {
        for (int64_t g = 0; g < groups; g++)
            for (int64_t s = first[g]; s < first[g + 1]; s++) {
                int64_t prefix = s == first[g] ? 0 : segments[first[g]].length;
                longest = std::max<int64_t>(longest, segments[s].length);
                widest = std::max<int64_t>(widest, prefix + segments[s].length);
            }
    }
};

// The keys that rows t0 … t0 + rows - 1 of a segment see, in places of prefix + segment: [lo, hi), lo at a vector edge.
struct Span {
    int64_t base, window, t0, lo, hi;
    Span(int64_t base, int64_t window, int64_t t0, int64_t rows) : base(base), window(window), t0(t0), lo(from(0) / W * W), hi(base + t0 + rows) {}
    int64_t from(int64_t i) const { return window > 0 ? std::max<int64_t>(0, base + t0 + i - window + 1) : 0; }
    int64_t size() const { return pad(hi - lo); }
    void hide_row(float* r, int64_t i) const { hide(r, from(i) - lo, base + t0 + i + 1 - lo, size()); }
};

}  // namespace tree
}  // namespace sk
