// What a loop that generates text needs: columns of one surface into another, and the choice of a token.
#include "bind.h"

#include "../cpu/health.h"
#include "../cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace anefast::bind {

namespace {

using Surfaces = std::vector<std::shared_ptr<Surface>>;

// A lock for writing, until it is let go.
class Writing {
  public:
    explicit Writing(const Surface &surface) : surface(surface), data(static_cast<uint16_t *>(surface.lock(false))) {}
    ~Writing() { surface.unlock_quietly(false); }
    Writing(const Writing &) = delete;
    Writing &operator=(const Writing &) = delete;
    const Surface &surface;
    uint16_t *const data;
};

bool copy_columns(const Surfaces &sources, const Surfaces &targets, size_t source_width, size_t target_width,
                  size_t from, size_t to, size_t count) {
    if (sources.size() != targets.size() || from + count > source_width || to + count > target_width)
        throw py::value_error("[copy_columns] expected as many targets as sources, and columns within both.");
    bool finite = true;
    for (size_t i = 0; i < sources.size(); i++) {
        const size_t rows = sources[i]->bytes() / sizeof(uint16_t) / source_width;
        if (rows * source_width * sizeof(uint16_t) != sources[i]->bytes() ||
            rows * target_width * sizeof(uint16_t) != targets[i]->bytes())
            throw py::value_error("[copy_columns] expected surfaces of as many rows of these widths.");
        Reading reading;
        const uint16_t *s = reading.add(sources[i]) + from;
        const Writing writing(*targets[i]);
        uint16_t *t = writing.data + to;
        for (size_t r = 0; r < rows; r++, s += source_width, t += target_width) {
            std::memcpy(t, s, count * sizeof(uint16_t));
            for (size_t j = 0; j < count; j++) finite &= (s[j] & 0x7c00) != 0x7c00;
        }
    }
    return finite;
}

const float *logits_of(const py::array &logits, const char *where) {
    const auto *x = elements_of<const float>(logits, where, "logits", "float32", {-1});
    if (logits.size() == 0)
        throw py::value_error(std::string("[") + where + "] expected logits of shape (V,), got none.");
    return x;
}

int64_t sample_array(const py::array &logits, double uniform, double temperature, int64_t top_k, double top_p,
                     double min_p) {
    const float *x = logits_of(logits, "sampling");
    if (const float most = largest_logit(x, logits.size()); !std::isfinite(most))
        throw py::value_error("[sampling] expected finite logits or -inf, got " + std::to_string(most) +
                              ". Hint: did the run diverge?");
    return sample(x, logits.size(), {temperature, top_k, top_p, min_p}, uniform);
}

std::vector<double> log_probabilities_array(const py::array &logits, const py::array &tokens) {
    const char *where = "log_probabilities";
    const float *x = logits_of(logits, where);
    const auto *t = elements_of<const int32_t>(tokens, where, "tokens", "int32", {-1});
    if (std::any_of(t, t + tokens.size(), [&](int32_t token) { return token < 0 || token >= logits.size(); }))
        throw py::index_error("[log_probabilities] expected tokens of these logits.");
    std::vector<double> out(static_cast<size_t>(tokens.size()));
    log_probabilities(x, logits.size(), t, tokens.size(), out.data());
    return out;
}

void penalise_array(const py::array &logits, const py::array &ids, double penalty) {
    auto *x = elements_of<float>(logits, "penalise", "logits", "float32", {-1}, Access::write);
    penalise(x, logits.size(), elements_of<const int32_t>(ids, "penalise", "ids", "int32", {-1}), ids.size(), penalty);
}

} // namespace

void init_generate(py::module_ &m) {
    using py::arg;
    m.def("copy_columns", &copy_columns, arg("sources"), arg("targets"), arg("source_width"), arg("target_width"),
          arg("start"), arg("to"), arg("count"),
          "Columns start.. of fp16 surfaces into columns to.. of others of as many rows. Whether all of them are "
          "finite.");
    m.def("sample", &sample_array, arg("logits"), arg("uniform"), arg("temperature") = 1.0, arg("top_k") = 0,
          arg("top_p") = 1.0, arg("min_p") = 0.0,
          "A token of softmax(logits / temperature), logits (V,) fp32; csrc/cpu/sample.h says how it is cut.");
    m.def("log_probabilities", &log_probabilities_array, arg("logits"), arg("tokens"),
          "log softmax(logits) of tokens (n,) int32, logits (V,) fp32.");
    m.def(
        "penalise", &penalise_array, arg("logits"), arg("ids"), arg("penalty"),
        "Makes ids (n,) int32 less likely: their logits over penalty where they are above 0, else times it, in place.");
}

} // namespace anefast::bind
