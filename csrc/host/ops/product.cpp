// conv, matmul and linear: everything that ends in a matrix product. Here shapes become products; the
// arithmetic, and the law that each result is one chain over k, is in cpu/gemm.h.
#include <algorithm>
#include <vector>

#include "../../cpu/gemm/gemm.h"
#include "../../cpu/pool.h"
#include "../../half.h"
#include "../blocked.h"
#include "convert.h"
#include "registry.h"

namespace anefast::host {

namespace {

Elem elem_of(const Builder &b, const mil::Type &t) {
    if (t.dtype == mil::DType::fp16) return Elem::f16;
    if (t.dtype == mil::DType::fp32) return Elem::f32;
    b.refuse(std::string("expected fp16 or fp32, got ") + mil::spelling(t.dtype));
}

// What a chip's own products are defined for, it computes so.
Arithmetic arithmetic_of(const Builder &b, const Gemm &g) {
    const bool halves = g.a.elem == Elem::f16 && g.b.elem == Elem::f16 && g.c_elem == Elem::f16;
    return b.fixed && halves ? Arithmetic::fixed : Arithmetic::fp32;
}

// One product of a batch; where its three matrices are is said in bytes from their values.
struct Product {
    Gemm g;
    size_t a, b, c;
};

// Their results lie one after the other: one matrix to the epilogue.
Runnable products(const Builder &builder, Ref a, Ref b, Ref c, std::vector<Product> list) {
    const std::shared_ptr<Blocks> blocks = a.base == ABSOLUTE && list.size() == 1 ? builder.plan.blocks : nullptr;
    return [=, prologue = builder.prologue, epilogue = builder.epilogue, list = std::move(list)](const Frame &f) {
        std::vector<Gemm> ready(list.size());
        std::vector<Prologue> prologues(prologue ? list.size() : 0);
        std::vector<Epilogue> epilogues(epilogue.run ? list.size() : 0);
        for (size_t i = 0; i < list.size(); i++) {
            ready[i] = list[i].g;
            ready[i].a.data = f.at(a) + list[i].a;
            ready[i].b.data = f.at(b) + list[i].b;
            ready[i].c = f.at(c) + list[i].c;
            if (blocks && gemm_wants_blocks(ready[i])) ready[i].blocked = blocks->of(ready[i]);
            const auto matrix = static_cast<int64_t>(i);
            if (prologue) {
                prologues[i] = [&f, &prologue, matrix](int64_t column, int64_t columns) {
                    prologue(f, matrix, column, columns);
                };
                ready[i].prologue = &prologues[i];
            }
            if (epilogue.run) {
                const int64_t above = matrix * ready[i].m;
                epilogues[i].unit = epilogue.unit;
                epilogues[i].run = [&f, &epilogue, above](int64_t row, int64_t rows, int64_t column, int64_t columns) {
                    epilogue.run(f, above + row, rows, column, columns);
                };
                ready[i].epilogue = &epilogues[i];
            }
        }
        if (ready.size() == 1) gemm(ready[0]);
        else gemm_batch(ready.data(), static_cast<int64_t>(ready.size()));
    };
}

// Offsets, in elements, of each matrix of a broadcast batch.
std::vector<size_t> batch_offsets(const std::vector<int32_t> &mine, const std::vector<int32_t> &all, size_t matrix) {
    std::vector<size_t> offsets{0};
    size_t below = matrix;
    for (size_t i = 0; i < all.size(); i++) { // from the last batch axis
        const auto n = static_cast<size_t>(all[all.size() - 1 - i]);
        const size_t m = i < mine.size() ? static_cast<size_t>(mine[mine.size() - 1 - i]) : 1;
        const size_t stride = m == 1 ? 0 : below;
        below *= m;
        std::vector<size_t> next;
        for (size_t j = 0; j < n; j++)
            for (size_t o : offsets) next.push_back(o + j * stride);
        offsets = std::move(next);
    }
    return offsets;
}

Runnable matmul(const Builder &b) {
    const mil::Type &x = b.type("x"), &y = b.type("y"), &z = b.result_type();
    const bool tx = b.f.flag(b.op, "transpose_x", false), ty = b.f.flag(b.op, "transpose_y", false);
    if (x.shape.size() < 2 || y.shape.size() < 2) b.refuse("expected operands of rank 2 or more");
    const size_t rx = x.shape.size(), ry = y.shape.size();
    const int64_t x0 = x.shape[rx - 2], x1 = x.shape[rx - 1], y0 = y.shape[ry - 2], y1 = y.shape[ry - 1];
    Gemm g{};
    g.m = tx ? x1 : x0;
    g.k = tx ? x0 : x1;
    g.n = ty ? y0 : y1;
    g.a = {nullptr, elem_of(b, x), tx ? 1 : x1, tx ? x1 : 1};
    g.b = {nullptr, elem_of(b, y), ty ? 1 : y1, ty ? y1 : 1};
    g.c_elem = elem_of(b, z);
    g.c_row_stride = g.n;
    g.arithmetic = arithmetic_of(b, g);
    const std::vector<int32_t> batch(z.shape.begin(), z.shape.end() - 2);
    const auto ox = batch_offsets({x.shape.begin(), x.shape.end() - 2}, batch, static_cast<size_t>(x0 * x1));
    const auto oy = batch_offsets({y.shape.begin(), y.shape.end() - 2}, batch, static_cast<size_t>(y0 * y1));
    std::vector<Product> list;
    for (size_t i = 0; i < ox.size(); i++)
        list.push_back({g, ox[i] * mil::bytes_of(x.dtype), oy[i] * mil::bytes_of(y.dtype),
                        i * static_cast<size_t>(g.m * g.n) * mil::bytes_of(z.dtype)});
    return products(b, b.at("x"), b.at("y"), b.at(b.result()), std::move(list));
}

// A bias is one more term, the first: with it, a row of the side that holds the weights begins, and meets a 1.
bool biased(const mil::Function &f, const mil::Operation &op) { return f.operand(op, "bias") >= 0; }

void ones(mil::DType dtype, size_t count, uint8_t *to) {
    if (dtype == mil::DType::fp16) std::fill_n(reinterpret_cast<uint16_t *>(to), count, half_from_float(1));
    else std::fill_n(reinterpret_cast<float *>(to), count, 1.0f);
}

// Rows of `row_bytes`, each with its own first element before it; null: with 1.
void with_first(const uint8_t *from, int64_t rows, size_t row_bytes, const uint8_t *first, mil::DType dtype,
                uint8_t *to) {
    const size_t element = mil::bytes_of(dtype);
    for (int64_t i = 0; i < rows; i++, from += row_bytes, to += element + row_bytes) {
        if (first) std::memcpy(to, first + static_cast<size_t>(i) * element, element);
        else ones(dtype, 1, to);
        std::memcpy(to + element, from, row_bytes);
    }
}

Parts matmul_parts(const mil::Function &f, const mil::Operation &op) {
    const mil::Type &z = f.values[op.results[0]].type;
    const int32_t y = f.operand(op, "y");
    if (z.shape.size() < 2 || !z.elements() || y < 0) return {};
    Parts p{z.shape[z.shape.size() - 2], z.shape.back()};
    const auto matrices = static_cast<int64_t>(z.elements()) / (p.rows * p.columns);
    const auto elements = static_cast<int64_t>(f.values[y].type.elements());
    const auto &shape = f.values[y].type.shape;
    if (f.flag(op, "transpose_y", false) || shape.size() < 2 ||
        elements != matrices * shape[shape.size() - 2] * p.columns)
        return p;
    p.right = y;
    p.right_rows = shape[shape.size() - 2];
    return p;
}

// x (m, k) by weight (n, k): with a bias, both have a column more.
size_t linear_workspace(const mil::Function &f, const mil::Operation &op) {
    if (!biased(f, op) || f.operand(op, "x") < 0 || f.operand(op, "weight") < 0) return 0;
    const mil::Type &x = f.values[f.operand(op, "x")].type, &w = f.values[f.operand(op, "weight")].type;
    if (w.shape.size() != 2 || !w.shape[1]) return 0;
    const auto k = static_cast<size_t>(w.shape[1]);
    return x.elements() / k * (k + 1) * mil::bytes_of(x.dtype) + w.elements() / k * (k + 1) * mil::bytes_of(w.dtype);
}

Runnable linear(const Builder &b) {
    const mil::Type &x = b.type("x"), &w = b.type("weight"), &z = b.result_type();
    const int64_t terms = w.shape[1];
    Gemm g{};
    g.k = terms + b.has("bias");
    g.n = w.shape[0];
    g.m = static_cast<int64_t>(x.elements()) / terms;
    g.a = {nullptr, elem_of(b, x), g.k, 1};
    g.b = {nullptr, elem_of(b, w), 1, g.k};
    g.c_elem = elem_of(b, z);
    g.c_row_stride = g.n;
    g.arithmetic = arithmetic_of(b, g);
    const Ref rx = b.at("x"), rw = b.at("weight"), rz = b.at(b.result());
    if (!b.has("bias")) return products(b, rx, rw, rz, {{g, 0, 0, 0}});
    const Ref space = b.workspace(), bias = b.at("bias");
    const size_t left = static_cast<size_t>(g.m * g.k) * mil::bytes_of(x.dtype);
    return [=, product = products(b, space, space, rz, {{g, 0, left, 0}}), xt = x.dtype, wt = w.dtype](const Frame &f) {
        with_first(f.at(rx), g.m, static_cast<size_t>(terms) * mil::bytes_of(xt), nullptr, xt, f.at(space));
        with_first(f.at(rw), g.n, static_cast<size_t>(terms) * mil::bytes_of(wt), f.at(bias), wt, f.at(space) + left);
        product(f);
    };
}

Parts linear_parts(const mil::Function &f, const mil::Operation &op) {
    const mil::Type &z = f.values[op.results[0]].type;
    return z.elements() ? Parts{static_cast<int64_t>(z.elements()) / z.shape.back(), z.shape.back()} : Parts{};
}

// The spatial side of a convolution; a missing height is 1.
struct Window {
    int64_t batch, groups, ci, co, height, width, kh, kw, out_h, out_w; // ci, co of one group
    int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1, top = 0, left = 0;
    int64_t bias; // 1 where there is one
    bool plain;   // 1x1 over every pixel: the image itself is the matrix
    int64_t terms() const { return ci * kh * kw + bias; }
    size_t column_bytes(size_t element) const { return static_cast<size_t>(terms() * out_h * out_w) * element; }
    size_t weight_bytes(size_t element) const { return static_cast<size_t>(groups * co * terms()) * element; }
};

Window window_of(const mil::Function &f, const mil::Operation &op) {
    const auto &x = f.values[f.operand(op, "x")].type.shape, &w = f.values[f.operand(op, "weight")].type.shape;
    const auto &z = f.values[op.results[0]].type.shape;
    const bool flat = x.size() == 3;
    Window v{};
    v.stride_h = v.stride_w = v.dilation_h = v.dilation_w = 1;
    v.batch = x[0];
    v.groups = f.integer(op, "groups", 1);
    v.ci = w[1];
    v.co = w[0] / v.groups;
    v.height = flat ? 1 : x[2];
    v.width = x.back();
    v.kh = flat ? 1 : w[2];
    v.kw = w.back();
    v.out_h = flat ? 1 : z[2];
    v.out_w = z.back();
    auto pair = [&](const char *name, int64_t &h, int64_t &across) {
        const auto given = f.ints(op, name);
        if (given.empty()) return;
        across = given.back();
        if (!flat) h = given[0];
    };
    pair("strides", v.stride_h, v.stride_w);
    pair("dilations", v.dilation_h, v.dilation_w);
    const std::string type = f.text(op, "pad_type", "valid");
    const int64_t reach_h = (v.kh - 1) * v.dilation_h + 1, reach_w = (v.kw - 1) * v.dilation_w + 1;
    if (type == "custom") {
        const auto pad = f.ints(op, "pad");
        if (!pad.empty()) {
            v.left = flat ? pad[0] : pad[2];
            v.top = flat ? 0 : pad[0];
        }
    } else if (type == "same" || type == "same_lower") { // an odd pixel goes last, or first if "lower"
        const int64_t extra = type == "same_lower" ? 1 : 0;
        v.top = (std::max<int64_t>(0, (v.out_h - 1) * v.stride_h + reach_h - v.height) + extra) / 2;
        v.left = (std::max<int64_t>(0, (v.out_w - 1) * v.stride_w + reach_w - v.width) + extra) / 2;
    }
    v.bias = biased(f, op);
    v.plain = !v.bias && v.kh == 1 && v.kw == 1 && v.stride_h == 1 && v.stride_w == 1 && v.top == 0 && v.left == 0 &&
              v.out_h == v.height && v.out_w == v.width;
    return v;
}

bool has_window(const mil::Function &f, const mil::Operation &op) {
    const int32_t x = f.operand(op, "x");
    if (x < 0 || f.operand(op, "weight") < 0) return false;
    const size_t rank = f.values[x].type.shape.size();
    return rank == 3 || rank == 4;
}

size_t conv_workspace(const mil::Function &f, const mil::Operation &op) {
    if (!has_window(f, op)) return 0;
    const Window v = window_of(f, op);
    const size_t columns = v.column_bytes(mil::bytes_of(f.values[f.operand(op, "x")].type.dtype));
    const size_t weights = v.bias ? v.weight_bytes(mil::bytes_of(f.values[f.operand(op, "weight")].type.dtype)) : 0;
    return v.plain ? 0 : columns + weights;
}

Parts conv_parts(const mil::Function &f, const mil::Operation &op) {
    if (!has_window(f, op)) return {};
    const Window v = window_of(f, op);
    return v.plain ? Parts{v.co, v.out_h * v.out_w, f.operand(op, "x"), v.ci} : Parts{};
}

// columns (ci * kh * kw, out_h * out_w): row k holds what the k-th weight of an output meets.
void unfold(const Window &v, size_t element, const uint8_t *image, uint8_t *columns) {
    const auto plane = static_cast<size_t>(v.height * v.width);
    Pool::shared().parallel(v.ci, [&](int64_t c) {
        for (int64_t p = 0; p < v.kh * v.kw; p++) {
            uint8_t *to = columns + static_cast<size_t>((c * v.kh * v.kw + p) * v.out_h * v.out_w) * element;
            for (int64_t i = 0; i < v.out_h; i++) {
                const int64_t y = i * v.stride_h + p / v.kw * v.dilation_h - v.top;
                for (int64_t j = 0; j < v.out_w; j++, to += element) {
                    const int64_t at = j * v.stride_w + p % v.kw * v.dilation_w - v.left;
                    if (y < 0 || y >= v.height || at < 0 || at >= v.width) std::memset(to, 0, element);
                    else
                        std::memcpy(to,
                                    image + (static_cast<size_t>(c) * plane + static_cast<size_t>(y * v.width + at)) *
                                                element,
                                    element);
                }
            }
        }
    });
}

Runnable conv(const Builder &b) {
    const mil::Type &x = b.type("x"), &w = b.type("weight"), &z = b.result_type();
    if (x.shape.size() < 3 || x.shape.size() > 4) b.refuse("expected x of rank 3 or 4");
    const Window v = window_of(b.f, b.op);
    const size_t es = mil::bytes_of(x.dtype), ws = mil::bytes_of(w.dtype);
    Gemm g{};
    g.m = v.co;
    g.k = v.terms();
    g.n = v.out_h * v.out_w;
    g.a = {nullptr, elem_of(b, w), g.k, 1};
    if (b.f.values[b.operand("weight")].turned) g.a.row_stride = 1, g.a.col_stride = g.m;
    g.b = {nullptr, elem_of(b, x), g.n, 1};
    g.c_elem = elem_of(b, z);
    g.c_row_stride = g.n;
    g.arithmetic = arithmetic_of(b, g);
    std::vector<Product> list;
    for (int64_t i = 0; i < v.batch; i++)
        for (int64_t q = 0; q < v.groups; q++)
            list.push_back({g, static_cast<size_t>(q * g.m * g.k) * ws,
                            static_cast<size_t>((i * v.groups + q) * v.ci * v.height * v.width) * es,
                            static_cast<size_t>((i * v.groups + q) * g.m * g.n) * mil::bytes_of(z.dtype)});
    const Ref rx = b.at("x"), rw = b.at("weight"), rz = b.at(b.result());
    if (v.plain) return products(b, rw, rx, rz, std::move(list));
    const Ref space = b.workspace(), bias = v.bias ? b.at("bias") : rw;
    return [=, list = std::move(list), xt = x.dtype, wt = w.dtype](const Frame &f) {
        uint8_t *const columns = f.at(space);
        const uint8_t *weights = f.at(rw);
        if (v.bias) {
            uint8_t *const wide = columns + v.column_bytes(es);
            with_first(weights, v.groups * v.co, static_cast<size_t>(g.k - 1) * ws, f.at(bias), wt, wide);
            ones(xt, static_cast<size_t>(g.n), columns);
            weights = wide;
        }
        for (const Product &p : list) {
            unfold(v, es, f.at(rx) + p.b, columns + static_cast<size_t>(v.bias * g.n) * es);
            Gemm ready = p.g;
            ready.a.data = weights + p.a;
            ready.b.data = columns;
            ready.c = f.at(rz) + p.c;
            gemm(ready);
        }
    };
}

} // namespace

bool takes_turned(const mil::Function &f, const mil::Operation &op) {
    if (op.type != "conv" || !has_window(f, op)) return false;
    const Window window = window_of(f, op);
    return window.plain && window.groups == 1;
}

void add_products(Table &t) {
    using namespace declare;
    t.add({"matmul",
           15,
           NUMBER,
           NUMBER,
           {in("x"), in("y"), may("transpose_x", Role::flag), may("transpose_y", Role::flag)},
           rules::matmul},
          {matmul, nullptr, nullptr, matmul_parts});
    t.add({"linear", 15, NUMBER, NUMBER, {in("x"), weight("weight"), may_weight("bias")}, rules::linear},
          {linear, linear_workspace, nullptr, linear_parts});
    t.add({"conv",
           15,
           FLOAT,
           FLOAT,
           {in("x"), in("weight"), may_weight("bias"), may("strides", Role::ints), may("pad_type", Role::text),
            may("pad", Role::ints), may("dilations", Role::ints), may("groups", Role::integer)},
           rules::conv},
          {conv, conv_workspace, nullptr, conv_parts});
}

} // namespace anefast::host
