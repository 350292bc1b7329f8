// See sample.h. Only as many of the likeliest are put in order as the draw needs: mostly a few, of many thousand.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vecmath.h"

namespace anefast {

namespace {

constexpr float NOTHING = -60; // exp of that is lost in a sum that begins with 1

// exp((logit - most) / temperature) of each.
std::vector<float> weights_of(const float *logits, int64_t n, float most, double temperature) {
    std::vector<float> out(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
        out[static_cast<size_t>(i)] = static_cast<float>((static_cast<double>(logits[i]) - most) / temperature);
    exp_floats(out.data(), out.data(), n);
    return out;
}

// Candidates in order of rank, ordered a stretch at a time.
class Ranking {
  public:
    std::vector<int32_t> ids;
    Ranking(const float *logits, std::vector<int32_t> candidates) : ids(std::move(candidates)), logits(logits) {}
    int64_t size() const { return static_cast<int64_t>(ids.size()); }
    void keep(int64_t most) {
        if (most >= size()) return;
        order(most);
        ids.resize(static_cast<size_t>(most));
    }
    int32_t at(int64_t rank) {
        if (rank >= ordered) order(std::min(size(), std::max<int64_t>(64, 4 * rank)));
        return ids[static_cast<size_t>(rank)];
    }

  private:
    void order(int64_t upto) {
        const auto before = [&](int32_t a, int32_t b) {
            return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
        };
        const auto begin = ids.begin() + ordered, end = ids.begin() + upto;
        if (upto < size()) std::nth_element(begin, end, ids.end(), before);
        std::sort(begin, end, before);
        ordered = upto;
    }

    const float *logits;
    int64_t ordered = 0;
};

} // namespace

float largest_logit(const float *logits, int64_t n) {
    float most = -std::numeric_limits<float>::infinity();
    bool numbers = true;
    for (int64_t i = 0; i < n; ++i) {
        numbers &= logits[i] == logits[i];
        most = logits[i] > most ? logits[i] : most;
    }
    return numbers ? most : std::numeric_limits<float>::quiet_NaN();
}

int64_t sample(const float *logits, int64_t n, const Choice &choice, double uniform) {
    const float most = largest_logit(logits, n);
    if (choice.temperature == 0) return std::find(logits, logits + n, most) - logits;
    const std::vector<float> weights = weights_of(logits, n, most, choice.temperature);
    const auto weight = [&](int32_t i) { return static_cast<double>(weights[static_cast<size_t>(i)]); };
    const float least = std::exp(NOTHING);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i)
        if (weights[static_cast<size_t>(i)] >= least) ids.push_back(static_cast<int32_t>(i));
    Ranking ranking(logits, std::move(ids));
    if (choice.top_k) ranking.keep(choice.top_k);
    double total = 0;
    for (int32_t i : ranking.ids) total += weight(i);
    std::vector<double> sums; // of the likeliest, by rank
    const auto add = [&](double w) { sums.push_back((sums.empty() ? 0 : sums.back()) + w); };
    const auto left = [&] { return static_cast<int64_t>(sums.size()) < ranking.size(); };
    if (choice.top_p < 1 || choice.min_p > 0) {
        while (left() && !(choice.top_p < 1 && !sums.empty() && sums.back() >= choice.top_p * total)) {
            const double w = weight(ranking.at(static_cast<int64_t>(sums.size())));
            if (w < choice.min_p) break;
            add(w);
        }
        total = sums.back(); // the likeliest is always kept
    } else {
        while (left() && (sums.empty() || sums.back() <= uniform * total))
            add(weight(ranking.at(static_cast<int64_t>(sums.size()))));
    }
    // Rounding may put the draw on the very end; the last with any weight is meant.
    const auto drawn = std::upper_bound(sums.begin(), sums.end(), uniform * total);
    const auto last = std::lower_bound(sums.begin(), sums.end(), sums.back());
    return ranking.at(std::min(drawn, last) - sums.begin());
}

void log_probabilities(const float *logits, int64_t n, const int32_t *tokens, int64_t count, double *out) {
    const float most = largest_logit(logits, n);
    double sum = 0;
    for (const float w : weights_of(logits, n, most, 1)) sum += w;
    const double over = static_cast<double>(most) + std::log(sum);
    for (int64_t i = 0; i < count; ++i) out[i] = logits[tokens[i]] - over;
}

void penalise(float *logits, int64_t n, const int32_t *ids, int64_t count, double penalty) {
    std::vector<bool> met(static_cast<size_t>(n), false);
    for (int64_t i = 0; i < count; ++i) {
        if (ids[i] < 0 || ids[i] >= n || met[static_cast<size_t>(ids[i])]) continue;
        met[static_cast<size_t>(ids[i])] = true;
        float &logit = logits[ids[i]];
        logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
    }
}

} // namespace anefast
