// From logits to the next token: temperature, top-k, top-p, min-p. Exponentials are fp32 (vecmath.h), their
// sums doubles, and one number decides.
//
// Not here: where that number comes from, and what is refused (anefast/sampling.py).
#pragma once

#include <cstdint>

namespace anefast {

struct Choice {
    double temperature = 1; // 0: the largest logit, the first of equals
    int64_t top_k = 0;      // only the k largest; 0: all
    double top_p = 1;       // of those, the fewest that hold this share of their probability; 1: all
    double min_p = 0;       // of those, what is at least this many times as likely as the likeliest
};

// The largest of n logits; NaN where there is one.
float largest_logit(const float *logits, int64_t n);
// A token of softmax(logits / temperature), cut as `choice` says. Equal logits rank by index. uniform: in [0, 1). The
// largest logit must be finite; minus infinity means never.
int64_t sample(const float *logits, int64_t n, const Choice &choice, double uniform);
// out[i] = log softmax(logits)[tokens[i]]: of the whole vocabulary, at temperature 1.
void log_probabilities(const float *logits, int64_t n, const int32_t *tokens, int64_t count, double *out);
// Logits of ids, each once however often it is named, over `penalty` where they are above 0, else times it (Keskar et
// al. 2019).
void penalise(float *logits, int64_t n, const int32_t *ids, int64_t count, double penalty);

} // namespace anefast
