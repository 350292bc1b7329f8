// Operations that ours never write and other projects do: attention in one operation, einsum, and weights
// that are stored as small integers. Each computes in double and rounds once; none is meant to be fast.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "../../cpu/pool.h"
#include "../../mil/einsum.h"
#include "convert.h"
#include "registry.h"

namespace anefast::host {

namespace {

void run(int64_t count, int64_t work, const std::function<void(int64_t)> &body) {
    if (work >= static_cast<int64_t>(WORTH_WAKING)) return Pool::shared().parallel(count, body);
    for (int64_t i = 0; i < count; i++) body(i);
}

// Strides, in elements, of a tensor that is broadcast to so many axes; 0 where it is repeated.
std::vector<size_t> strides_to(const std::vector<int32_t> &shape, size_t rank) {
    std::vector<size_t> strides(rank, 0);
    size_t below = 1;
    for (size_t i = 0; i < shape.size(); i++) { // from the last axis
        const size_t n = static_cast<size_t>(shape[shape.size() - 1 - i]);
        strides[rank - 1 - i] = n == 1 ? 0 : below;
        below *= n;
    }
    return strides;
}

// 1) softmax(q k^T / sqrt(E) + mask) v

struct Attention {
    Ref q, k, v, mask, z;
    bool masked = false, boolean = false;
    Load<double> load, load_mask;
    Store<double> store;
    size_t element, mask_element;
    size_t queries, keys, width, value_width, batches;
    std::vector<int32_t> batch;       // of query, without its last two axes
    std::vector<size_t> mask_strides; // over batch, queries and keys

    size_t mask_row(size_t matrix, size_t query) const {
        size_t offset = query * mask_strides[batch.size()];
        for (size_t i = batch.size(); i-- > 0;) {
            const size_t n = static_cast<size_t>(batch[i]);
            offset += matrix % n * mask_strides[i];
            matrix /= n;
        }
        return offset;
    }

    void row(const Frame &f, size_t matrix, size_t query) const {
        std::vector<double> q_row(width), line(std::max(width, value_width)), scores(keys), out(value_width, 0);
        load(f.at(q) + (matrix * queries + query) * width * element, q_row.data(), width);
        const double scale = 1 / std::sqrt(static_cast<double>(width));
        double most = -std::numeric_limits<double>::infinity();
        for (size_t j = 0; j < keys; j++) {
            load(f.at(k) + (matrix * keys + j) * width * element, line.data(), width);
            double sum = 0;
            for (size_t i = 0; i < width; i++) sum += q_row[i] * line[i];
            scores[j] = sum * scale;
            if (masked) {
                double m;
                load_mask(f.at(mask) + (mask_row(matrix, query) + j * mask_strides.back()) * mask_element, &m, 1);
                scores[j] = !boolean ? scores[j] + m : m != 0 ? scores[j] : -std::numeric_limits<double>::infinity();
            }
            most = std::max(most, scores[j]);
        }
        double total = 0;
        for (double &s : scores) total += s = std::exp(s - most);
        for (size_t j = 0; j < keys; j++) {
            load(f.at(v) + (matrix * keys + j) * value_width * element, line.data(), value_width);
            for (size_t i = 0; i < value_width; i++) out[i] += scores[j] / total * line[i];
        }
        store(out.data(), f.at(z) + (matrix * queries + query) * value_width * element, value_width);
    }
};

Runnable attention(const Builder &b) {
    const mil::Type &q = b.type("query"), &k = b.type("key"), &v = b.type("value");
    const size_t rank = q.shape.size();
    Attention a;
    a.q = b.at("query"), a.k = b.at("key"), a.v = b.at("value"), a.z = b.at(b.result());
    a.load = loader<double>(q.dtype);
    a.store = storer<double>(q.dtype);
    a.element = mil::bytes_of(q.dtype);
    a.queries = static_cast<size_t>(q.shape[rank - 2]);
    a.width = static_cast<size_t>(q.shape[rank - 1]);
    a.keys = static_cast<size_t>(k.shape[rank - 2]);
    a.value_width = static_cast<size_t>(v.shape[rank - 1]);
    a.batch.assign(q.shape.begin(), q.shape.end() - 2);
    a.batches = q.elements() / (a.queries * a.width);
    a.masked = b.has("attn_mask");
    a.load_mask = nullptr, a.mask_element = 0;
    if (a.masked) {
        const mil::Type &mask = b.type("attn_mask");
        a.mask = b.at("attn_mask");
        a.boolean = mask.dtype == mil::DType::boolean;
        a.load_mask = loader<double>(mask.dtype);
        a.mask_element = mil::bytes_of(mask.dtype);
        a.mask_strides = strides_to(mask.shape, rank);
    }
    return [a](const Frame &f) {
        const auto rows = static_cast<int64_t>(a.batches * a.queries);
        run(rows, rows * static_cast<int64_t>(a.keys * (a.width + a.value_width)),
            [&](int64_t i) { a.row(f, static_cast<size_t>(i) / a.queries, static_cast<size_t>(i) % a.queries); });
    };
}

// 2) einsum of two operands

// One index of the equation: its size, and its stride in x, y and z, in elements; 0 where it is absent.
struct Index {
    size_t n, x, y, z;
};

Runnable einsum(const Builder &b) {
    const int32_t *values = b.op.find("values")->values.data();
    const mil::Type &x = b.type(values[0]), &y = b.type(values[1]), &z = b.result_type();
    const mil::Equation e = mil::equation_of(b.f.text(b.op, "equation", ""));
    std::vector<Index> kept, summed;
    const std::string all = e.z + e.summed;
    for (size_t i = 0; i < all.size(); i++) {
        Index index{1, 0, 0, 0};
        const auto take = [&](const std::string &letters, const mil::Type &type, size_t *stride) {
            const size_t at = letters.find(all[i]);
            if (at == std::string::npos) return;
            index.n = static_cast<size_t>(type.shape[at]);
            *stride = 1;
            for (size_t j = at + 1; j < type.shape.size(); j++) *stride *= static_cast<size_t>(type.shape[j]);
        };
        take(e.x, x, &index.x);
        take(e.y, y, &index.y);
        take(e.z, z, &index.z);
        (i < e.z.size() ? kept : summed).push_back(index);
    }
    size_t terms = 1;
    for (const Index &index : summed) terms *= index.n;
    const size_t element = mil::bytes_of(z.dtype), results = z.elements();
    return [=, rx = b.at(values[0]), ry = b.at(values[1]), rz = b.at(b.result()), load = loader<double>(x.dtype),
            store = storer<double>(z.dtype)](const Frame &f) {
        run(static_cast<int64_t>(results), static_cast<int64_t>(results * terms), [&](int64_t i) {
            size_t at = static_cast<size_t>(i), ox = 0, oy = 0;
            for (size_t k = kept.size(); k-- > 0;) { // z is dense in the order of its letters
                ox += at % kept[k].n * kept[k].x;
                oy += at % kept[k].n * kept[k].y;
                at /= kept[k].n;
            }
            double sum = 0;
            for (size_t t = 0; t < terms; t++) {
                size_t rest = t, px = ox, py = oy;
                for (size_t k = summed.size(); k-- > 0;) {
                    px += rest % summed[k].n * summed[k].x;
                    py += rest % summed[k].n * summed[k].y;
                    rest /= summed[k].n;
                }
                double a, c;
                load(f.at(rx) + px * element, &a, 1);
                load(f.at(ry) + py * element, &c, 1);
                sum += a * c;
            }
            store(&sum, f.at(rz) + static_cast<size_t>(i) * element, 1);
        });
    };
}

// 3) (data - zero point) x scale, the two given once or per entry of an axis

Runnable affine_dequantize(const Builder &b) {
    const mil::Type &data = b.type("quantized_data"), &scale = b.type("scale"), &zero = b.type("zero_point");
    const mil::Type &z = b.result_type();
    const size_t axis = b.axis(data.shape.size());
    size_t below = 1;
    for (size_t i = axis + 1; i < data.shape.size(); i++) below *= static_cast<size_t>(data.shape[i]);
    const size_t n = static_cast<size_t>(data.shape[axis]), total = data.elements();
    return [=, from = b.at("quantized_data"), scales = b.at("scale"), zeros = b.at("zero_point"), to = b.at(b.result()),
            many_scales = scale.elements() > 1, many_zeros = zero.elements() > 1, load = loader<double>(data.dtype),
            load_scale = loader<double>(scale.dtype), load_zero = loader<double>(zero.dtype),
            store = storer<double>(z.dtype), in = mil::bytes_of(data.dtype), out = mil::bytes_of(z.dtype),
            scale_bytes = mil::bytes_of(scale.dtype), zero_bytes = mil::bytes_of(zero.dtype)](const Frame &f) {
        run(static_cast<int64_t>(total / below), static_cast<int64_t>(total), [&](int64_t i) {
            const size_t entry = static_cast<size_t>(i) % n, at = static_cast<size_t>(i) * below;
            double s, zero_point;
            load_scale(f.at(scales) + (many_scales ? entry : 0) * scale_bytes, &s, 1);
            load_zero(f.at(zeros) + (many_zeros ? entry : 0) * zero_bytes, &zero_point, 1);
            double block[BLOCK];
            for (size_t j = 0; j < below; j += BLOCK) {
                const size_t m = std::min(BLOCK, below - j);
                load(f.at(from) + (at + j) * in, block, m);
                for (size_t k = 0; k < m; k++) block[k] = (block[k] - zero_point) * s;
                store(block, f.at(to) + (at + j) * out, m);
            }
        });
    };
}

} // namespace

void add_composed(Table &t) {
    using namespace declare;
    t.add({"scaled_dot_product_attention",
           18,
           FLOAT,
           FLOAT,
           {in("query"), in("key"), in("value"), may("attn_mask", Role::mask)},
           rules::attention},
          {attention});
    t.add({"einsum", 15, FLOAT, FLOAT, {needs("values", Role::tuple), needs("equation", Role::text)}, rules::einsum},
          {einsum});
    t.add({"constexpr_affine_dequantize",
           16,
           FLOAT,
           FLOAT,
           {{"quantized_data", Role::narrow, false, true},
            {"zero_point", Role::zero, false, true},
            weight("scale"),
            needs("axis", Role::integer)},
           rules::affine_dequantize},
          {affine_dequantize});
}

} // namespace anefast::host
