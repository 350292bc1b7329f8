// UnstoredGradients: gradients that an update makes where it uses them, of surfaces and of the classifier's taps.
#include "unstored.h"

#include <algorithm>
#include <atomic>
#include <map>

#include "../cpu/health.h"
#include "../cpu/pool.h"
#include "../cpu/weight_grad.h"

namespace anefast::bind {

Tap UnstoredGradients::tap(const std::shared_ptr<Surface> &surface, int64_t channels) const {
    const int64_t elements = batch_ * channels * seq_;
    if (!surface || static_cast<int64_t>(surface->bytes() / 2) < elements)
        throw py::value_error("[unstored] expected a surface of " + std::to_string(elements) + " halves, got " +
                              (surface ? std::to_string(surface->bytes()) + " bytes." : "None."));
    return {surface, elements};
}

UnstoredGradients::UnstoredGradients(int64_t batch, int64_t seq) : batch_(batch), seq_(seq) {
    if (batch < 1 || seq < 1) throw py::value_error("[unstored] expected batch and seq of at least 1.");
}

void UnstoredGradients::add(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, int64_t rows,
                            int64_t columns) {
    matrices_.push_back({tap(dy, rows), tap(x, columns), rows, columns});
}

void UnstoredGradients::embed(const py::array &tokens, const std::shared_ptr<Surface> &dx) {
    const auto *t = elements_of<const int32_t>(tokens, "unstored", "tokens", "int32", {batch_, seq_});
    for (py::ssize_t i = 0; i < tokens.size(); i++)
        if (t[i] < 0 || t[i] >= head.vocab)
            throw py::value_error("[unstored] expected tokens below the " + std::to_string(head.vocab) +
                                  " of the last head_loss_grad, got " + std::to_string(t[i]) + ".");
    dx_ = tap(dx, head.channels);
    tokens_.assign(t, t + tokens.size());
}

bool UnstoredGradients::finite() const {
    constexpr int64_t PART = 1 << 16; // halves: some 3 us
    if (head.tokens && !head.finite) return false;
    std::map<Surface *, Tap> taps; // several matrices may share one
    for (const Matrix &m : matrices_) taps[m.dy.surface.get()] = m.dy, taps[m.x.surface.get()] = m.x;
    if (dx_.surface) taps[dx_.surface.get()] = dx_;
    Reading reading;
    std::vector<std::pair<const uint16_t *, int64_t>> parts;
    for (const auto &[surface, tap] : taps) {
        const uint16_t *data = reading.add(tap.surface);
        for (int64_t at = 0; at < tap.elements; at += PART)
            parts.emplace_back(data + at, std::min(PART, tap.elements - at));
    }
    std::atomic<bool> finite{true};
    computing("unstored", [&] {
        Pool::shared().parallel(static_cast<int64_t>(parts.size()), [&](int64_t i) {
            if (half_overflows(parts[i].first, static_cast<size_t>(parts[i].second))) finite = false;
        });
    });
    return finite;
}

double UnstoredGradients::update(const UpdateRule &rule, const Arrays &weights, const std::vector<Arrays> &states,
                                 const std::vector<float> &rates, const std::vector<float> &decays) {
    Reading reading;
    std::vector<FlowingGrad> grads;
    for (const Matrix &m : matrices_) {
        const uint16_t *dy = reading.add(m.dy.surface), *x = reading.add(m.x.surface);
        grads.push_back(weight_grad_flowing(dy, x, batch_, seq_, m.rows, m.columns));
    }
    if (head.tokens) {
        const uint16_t *dx = dx_.surface ? reading.add(dx_.surface) : nullptr;
        const Embedding embedded{tokens_.data(), batch_, seq_, head.channels, head.vocab};
        grads.push_back(
            {head.vocab, head.channels, 0, 0, nullptr, [=](int64_t first, int64_t rows, const float *, float *out) {
                 head.grad_rows(first, rows, out);
                 if (dx) embed_grad_rows(embedded, dx, first, rows, out);
             }});
    }
    std::vector<Shape> shapes;
    for (const FlowingGrad &g : grads) shapes.push_back({g.rows, g.columns});
    const std::vector<Tensor> tensors = tensors_of("unstored", rule, weights, states, rates, decays, shapes);
    return computing("unstored", [&] {
        return update_flowing(tensors.data(), grads.data(), static_cast<int64_t>(tensors.size()), rule);
    });
}

void init_unstored(py::module_ &m) {
    using py::arg;
    py::class_<UnstoredGradients, std::shared_ptr<UnstoredGradients>>(
        m, "UnstoredGradients", "Gradients of one micro-step that are never stored; read anefast/runtime/unstored.py.")
        .def(init_counted<UnstoredGradients, int64_t, int64_t>(), arg("batch"), arg("seq"))
        .def("add", &UnstoredGradients::add, arg("dy"), arg("x"), arg("rows"), arg("columns"),
             "The next matrix (Co, Ci), whose gradient is dy (B, Co, 1, S) x (B, Ci, 1, S)^T, fp16 surfaces.")
        .def("embed", &UnstoredGradients::embed, arg("tokens"), arg("dx"),
             "The classifier's matrix is the embedding too: its gradient has dx (B, C, 1, S) at tokens (B, S) besides.")
        .def("finite", &UnstoredGradients::finite, "Whether all of them are.")
        .def("update", &UnstoredGradients::update, arg("rule"), arg("weights"), arg("states"), arg("rates"),
             arg("decays"),
             "_C.update of the matrices in the order of add, the classifier's last if head_loss_grad left one here. "
             "Returns "
             "the gradients' sum of squares, in double.");
    m.attr("HEAD_TOKENS") = HEAD_TOKENS;
    m.attr("HEAD_KEPT") = HEAD_KEPT;
}

} // namespace anefast::bind
