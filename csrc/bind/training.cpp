// The CPU's side of a training step: embedding, head, threads. Weight gradients are in queue.cpp.
//
// Arrays are C-contiguous; fp16 ones are (B, C, 1, S), usually views of locked surfaces. The GIL is
// released while anything is computed.
#include "bind.h"
#include "unstored.h"

#include "../cpu/embed.h"
#include "../cpu/head.h"
#include "../cpu/pool.h"
#include "../span.h"

#include <optional>

namespace anefast::bind {

namespace {

// B, C, S of an fp16 (B, C, 1, S) array.
struct Extent {
    py::ssize_t b, c, s;
};

Extent extent(const py::array &a, const char *where, const char *name) {
    elements(a, where, name, "float16", {-1, -1, 1, -1}, Access::read);
    return {a.shape(0), a.shape(1), a.shape(3)};
}

[[noreturn]] void bad_token(const char *where, const char *name, int64_t at, int64_t seq, int64_t vocab) {
    throw py::value_error(std::string("[") + where + "] expected " + name + " below " + std::to_string(vocab) +
                          ", got another at (" + std::to_string(at / seq) + ", " + std::to_string(at % seq) + ").");
}

using Maybe = std::optional<py::array>; // None where a family has no such parameter

bool is_half(const py::array &a) { return a.dtype().equal(py::dtype("float16")); }

void embed_arrays(const py::array &tokens, const py::array &weight, const py::array &out, const Maybe &positions) {
    span::Span timed(span::Component::EMBEDDING);
    const char *where = "embed";
    const Extent e = extent(out, where, "out");
    const auto *t = elements_of<const int32_t>(tokens, where, "tokens", "int32", {e.b, e.s});
    const bool half = is_half(weight);
    const void *w = elements(weight, where, "weight", half ? "float16" : "float32", {-1, e.c}, Access::read);
    auto *o = elements_of<uint16_t>(out, where, "out", "float16", {e.b, e.c, 1, e.s}, Access::write);
    const auto *p =
        positions ? elements_of<const float>(*positions, where, "positions", "float32", {e.s, e.c}) : nullptr;
    if (half && p) throw py::value_error("[embed] expected a float32 weight to add positions to, got float16.");
    const int64_t vocab = weight.shape(0);
    const Embedding embedding{t, e.b, e.s, e.c, vocab};
    const int64_t bad = computing(where, [&] {
        return half ? embed(embedding, static_cast<const uint16_t *>(w), o)
                    : embed(embedding, static_cast<const float *>(w), p, o);
    });
    if (bad >= 0) bad_token(where, "tokens", bad, e.s, vocab);
}

void positions_grad_arrays(const py::array &dx, const py::array &dpositions) {
    span::Span timed(span::Component::EMBEDDING);
    const char *where = "positions_grad";
    const Extent e = extent(dx, where, "dx");
    auto *d = elements_of<float>(dpositions, where, "dpositions", "float32", {e.s, e.c}, Access::write);
    computing(where, [&] { positions_grad(static_cast<const uint16_t *>(dx.data()), e.b, e.s, e.c, d); });
}

void embed_grad_arrays(const py::array &tokens, const py::array &dx, const py::array &dweight) {
    span::Span timed(span::Component::EMBEDDING);
    const char *where = "embed_grad";
    const Extent e = extent(dx, where, "dx");
    const auto *t = elements_of<const int32_t>(tokens, where, "tokens", "int32", {e.b, e.s});
    auto *w = elements_of<float>(dweight, where, "dweight", "float32", {-1, e.c}, Access::write);
    const auto *d = static_cast<const uint16_t *>(dx.data());
    const int64_t vocab = dweight.shape(0);
    const int64_t bad = computing(where, [&] { return embed_grad({t, e.b, e.s, e.c, vocab}, d, w); });
    if (bad >= 0) bad_token(where, "tokens", bad, e.s, vocab);
}

Head head_of(const char *where, const py::array &h, const py::array &norm, const py::array &weight, double epsilon,
             const Maybe &bias, bool half = false) {
    const Extent e = extent(h, where, "h");
    const auto *n = elements_of<const float>(norm, where, "norm", "float32", {e.c});
    const void *w = elements(weight, where, "weight", half ? "float16" : "float32", {-1, e.c}, Access::read);
    const auto *b = bias ? elements_of<const float>(*bias, where, "bias", "float32", {e.c}) : nullptr;
    Head head{static_cast<const uint16_t *>(h.data()),
              n,
              nullptr,
              e.b,
              e.s,
              e.c,
              weight.shape(0),
              static_cast<float>(epsilon),
              b};
    if (half) head.halves = static_cast<const uint16_t *>(w);
    else head.weight = static_cast<const float *>(w);
    return head;
}

py::tuple loss_tuple(const char *where, const HeadLoss &l, const Head &head) {
    if (l.bad >= 0) bad_token(where, "targets", l.bad, head.seq, head.vocab);
    return py::make_tuple(l.sum, l.count);
}

py::tuple head_loss_arrays(const py::array &h, const py::array &norm, const py::array &weight, const py::array &targets,
                           double epsilon, const py::array &nll, const Maybe &bias) {
    span::Span timed(span::Component::CROSS_ENTROPY);
    const char *where = "head_loss";
    const Head head = head_of(where, h, norm, weight, epsilon, bias, is_half(weight));
    const auto *t = elements_of<const int32_t>(targets, where, "targets", "int32", {head.batch, head.seq});
    auto *n = elements_of<float>(nll, where, "nll", "float32", {head.batch, head.seq}, Access::write);
    return loss_tuple(where, computing(where, [&] { return head_loss(head, t, n); }), head);
}

// run(targets, nll, dh, dnorm, dbias) computes, without the GIL.
template <class Run> py::tuple head_grad(const Head &head, const py::array &targets, const py::array &nll,
                                         const py::array &dh, const Maybe &dnorm, const Maybe &dbias, const Run &run) {
    span::Span timed(span::Component::CROSS_ENTROPY);
    const char *where = "head_loss_grad";
    const auto *t = elements_of<const int32_t>(targets, where, "targets", "int32", {head.batch, head.seq});
    auto *n = elements_of<float>(nll, where, "nll", "float32", {head.batch, head.seq}, Access::write);
    auto *d =
        elements_of<uint16_t>(dh, where, "dh", "float16", {head.batch, head.channels, 1, head.seq}, Access::write);
    auto *dn = dnorm ? elements_of<float>(*dnorm, where, "dnorm", "float32", {head.channels}, Access::write) : nullptr;
    if (dbias && !head.bias) throw py::value_error("[head_loss_grad] expected no dbias of a norm without bias.");
    auto *db = dbias ? elements_of<float>(*dbias, where, "dbias", "float32", {head.channels}, Access::write) : nullptr;
    return loss_tuple(where, computing(where, [&] { return run(t, n, d, dn, db); }), head);
}

py::tuple head_loss_grad_arrays(const py::array &h, const py::array &norm, const py::array &weight,
                                const py::array &targets, double epsilon, float scale, const py::array &nll,
                                const py::array &dh, const Maybe &dnorm, const Maybe &dweight, bool fresh,
                                const Maybe &bias, const Maybe &dbias) {
    const Head head = head_of("head_loss_grad", h, norm, weight, epsilon, bias);
    const char *where = "head_loss_grad";
    auto *dw =
        dweight ? elements_of<float>(*dweight, where, "dweight", "float32", {head.vocab, head.channels}, Access::write)
                : nullptr;
    return head_grad(head, targets, nll, dh, dnorm, dbias,
                     [&](const int32_t *t, float *n, uint16_t *d, float *dn, float *db) {
                         return head_loss_grad(head, t, scale, n, d, dn, db, dw, fresh);
                     });
}

py::tuple head_loss_grad_flowing(const py::array &h, const py::array &norm, const py::array &weight,
                                 const py::array &targets, double epsilon, float scale, const py::array &nll,
                                 const py::array &dh, const Maybe &dnorm, UnstoredGradients &dweight, bool fresh,
                                 const Maybe &bias, const Maybe &dbias) {
    const Head head = head_of("head_loss_grad", h, norm, weight, epsilon, bias);
    if (head.batch * head.seq > HEAD_TOKENS)
        throw py::value_error("[head_loss_grad] expected at most " + std::to_string(HEAD_TOKENS) +
                              " tokens for a gradient that is not stored, got " +
                              std::to_string(head.batch * head.seq) + ".");
    return head_grad(head, targets, nll, dh, dnorm, dbias,
                     [&](const int32_t *t, float *n, uint16_t *d, float *dn, float *db) {
                         return head_loss_grad(head, t, scale, n, d, dn, db, dweight.head, fresh);
                     });
}

void head_logits_arrays(const py::array &h, const py::array &norm, const py::array &weight, double epsilon,
                        const py::array &positions, const py::array &out, const Maybe &bias) {
    span::Span timed(span::Component::CLASSIFIER);
    const char *where = "head_logits";
    const Head head = head_of(where, h, norm, weight, epsilon, bias, true);
    const auto *p = elements_of<const int32_t>(positions, where, "positions", "int32", {-1});
    const int64_t count = positions.size();
    if (head.batch != 1 && count != head.batch)
        throw py::value_error("[head_logits] expected a position of each sequence, or several of one, got " +
                              std::to_string(count) + " of " + std::to_string(head.batch) + ".");
    auto *o = elements_of<float>(out, where, "out", "float32", {count, head.vocab}, Access::write);
    const int64_t bad = computing(where, [&] { return head_logits(head, p, count, o); });
    if (bad >= 0)
        throw py::value_error("[head_logits] expected positions in [0, " + std::to_string(head.seq) +
                              "), got another at " + std::to_string(bad) + ".");
}

} // namespace

void init_training(py::module_ &m) {
    using py::arg;
    const auto none = py::none();
    m.def("embed", &embed_arrays, arg("tokens"), arg("weight"), arg("out"), arg("positions") = none,
          "out (B, C, 1, S) fp16 = rows of weight (V, C), fp32 or fp16, named by tokens (B, S) int32, plus positions "
          "(S, C), which an fp32 weight may have.");
    m.def("positions_grad", &positions_grad_arrays, arg("dx"), arg("dpositions"),
          "dpositions (S, C) fp32 += the sum of dx (B, C, 1, S) fp16 over B.");
    m.def("embed_grad", &embed_grad_arrays, arg("tokens"), arg("dx"), arg("dweight"),
          "dweight (V, C) fp32 += dx (B, C, 1, S) fp16 at tokens; positions in ascending order.");
    m.def("head_loss", &head_loss_arrays, arg("h"), arg("norm"), arg("weight"), arg("targets"), arg("epsilon"),
          arg("nll"), arg("bias") = none,
          "Final norm, classifier and cross-entropy: (sum of nll over targets >= 0, their count).\n\n"
          "weight (V, C): fp32 or fp16. bias: of a LayerNorm; None for an RMSNorm.");
    m.def(
        "head_loss_grad", &head_loss_grad_arrays, arg("h"), arg("norm"), arg("weight"), arg("targets"), arg("epsilon"),
        arg("scale"), arg("nll"), arg("dh"), arg("dnorm"), arg("dweight"), arg("fresh") = false, arg("bias") = none,
        arg("dbias") = none,
        "head_loss with gradients of scale * sum: dh is written, dnorm and dweight are added to or, if fresh, written; "
        "None: it is frozen.");
    m.def("head_loss_grad", &head_loss_grad_flowing, arg("h"), arg("norm"), arg("weight"), arg("targets"),
          arg("epsilon"), arg("scale"), arg("nll"), arg("dh"), arg("dnorm"), arg("dweight"), arg("fresh") = false,
          arg("bias") = none, arg("dbias") = none,
          "The same of at most HEAD_TOKENS tokens, dweight being left to a UnstoredGradients.");
    m.def(
        "head_logits", &head_logits_arrays, arg("h"), arg("norm"), arg("weight"), arg("epsilon"), arg("positions"),
        arg("out"), arg("bias") = none,
        "out (N, V) fp32: the logits of weight (V, C) fp16 at one position of each sequence, or at N of the only one.");
    m.def("threads", [] { return Pool::shared().threads(); });
    m.def(
        "set_threads",
        [](int n) {
            if (n < 1 || n > 1024)
                throw py::value_error("[set_threads] expected 1 to 1024, got " + std::to_string(n) + ".");
            computing("set_threads", [&] { Pool::shared().set_threads(n); });
        },
        arg("n"));
}

} // namespace anefast::bind
