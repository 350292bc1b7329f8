// Blob files, half conversion and the matrix product, over arrays and buffers.
#include "bind.h"

#include <cstring>
#include <vector>

#include "../blob.h"
#include "../cpu/gemm/gemm.h"
#include "../cpu/health.h"
#include "../cpu/weights.h"
#include "../half.h"

namespace anefast::bind {

namespace {

struct Spelled {
    blob_dtype dtype;
    const char *numpy;
    size_t bytes;
};

const Spelled SPELLED[] = {
    {BLOB_FP16, "float16", 2}, {BLOB_FP32, "float32", 4},  {BLOB_INT8, "int8", 1},   {BLOB_UINT8, "uint8", 1},
    {BLOB_INT16, "int16", 2},  {BLOB_UINT16, "uint16", 2}, {BLOB_INT32, "int32", 4}, {BLOB_UINT32, "uint32", 4},
};

py::tuple layout(const std::vector<size_t> &nbytes) {
    std::vector<uint64_t> records(nbytes.size()), data(nbytes.size());
    const size_t total = blob_layout(nbytes.data(), nbytes.size(), records.data(), data.data());
    return py::make_tuple(records, data, total);
}

py::bytes write(const std::vector<py::array> &tensors) {
    std::vector<blob_dtype> dtypes;
    std::vector<size_t> bytes;
    for (const py::array &a : tensors) {
        const Spelled *found = nullptr;
        for (const Spelled &s : SPELLED)
            if (a.dtype().equal(py::dtype(s.numpy))) found = &s;
        if (!found)
            throw py::value_error("[blob_write] expected fp16, fp32 or an integer of 1, 2 or 4 bytes, got " +
                                  describe(a) + ".");
        if (!(a.flags() & py::array::c_style))
            throw py::value_error("[blob_write] expected C-contiguous tensors, got strides. Hint: "
                                  "np.ascontiguousarray.");
        dtypes.push_back(found->dtype);
        bytes.push_back(static_cast<size_t>(a.nbytes()));
    }
    std::vector<uint64_t> records(bytes.size()), data(bytes.size());
    const size_t total = blob_layout(bytes.data(), bytes.size(), records.data(), data.data());
    auto file = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(total)));
    if (!file) throw py::error_already_set();
    auto *base = reinterpret_cast<uint8_t *>(PyBytes_AS_STRING(file.ptr()));
    std::memset(base, 0, total);
    blob_write_records(base, dtypes.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < tensors.size(); i++)
        if (bytes[i]) std::memcpy(base + data[i], tensors[i].data(), bytes[i]);
    return file;
}

void write_records(py::array_t<uint8_t, py::array::c_style> file, const std::vector<size_t> &nbytes) {
    std::vector<uint64_t> records(nbytes.size()), data(nbytes.size());
    const size_t total = blob_layout(nbytes.data(), nbytes.size(), records.data(), data.data());
    if (static_cast<size_t>(file.nbytes()) != total)
        throw py::value_error("[blob_write_records] expected a file of " + std::to_string(total) + " bytes, got " +
                              std::to_string(file.nbytes()) + ".");
    const std::vector<blob_dtype> dtypes(nbytes.size(), BLOB_FP16);
    blob_write_records(file.mutable_data(), dtypes.data(), nbytes.data(), nbytes.size());
}

py::array read(const py::object &file, uint64_t offset) {
    const View view(file, "blob_read");
    // The reader checks everything; the dtype is only guessed here so that it can be asked about.
    uint32_t said = BLOB_FP16;
    if (view.bytes() >= 8 && offset <= view.bytes() - 8) std::memcpy(&said, view.data() + offset + 4, 4);
    const Spelled *found = nullptr;
    for (const Spelled &s : SPELLED)
        if (static_cast<uint32_t>(s.dtype) == said) found = &s;
    const uint8_t *data = nullptr;
    size_t bytes = 0;
    const char *wrong = blob_find(view.data(), view.bytes(), offset, found ? found->dtype : BLOB_FP16, &data, &bytes);
    if (wrong) throw py::value_error("[blob_read] at offset " + std::to_string(offset) + ": " + wrong);
    if (!found || bytes % found->bytes != 0)
        throw py::value_error("[blob_read] expected whole elements of a known dtype at offset " +
                              std::to_string(offset) + ", got " + std::to_string(bytes) + " bytes of dtype " +
                              std::to_string(said) + ".");
    py::array result(py::dtype(found->numpy), std::vector<py::ssize_t>{static_cast<py::ssize_t>(bytes / found->bytes)});
    if (bytes) std::memcpy(result.mutable_data(), data, bytes);
    return result;
}

void same_size(const char *where, const py::array &x, const py::array &out) {
    if (x.size() != out.size())
        throw py::value_error(std::string("[") + where + "] expected as many elements out as in, got " + describe(x) +
                              " and " + describe(out) + ".");
}

// Any shape, so `elements` (which checks one) does not fit.
void *flat(const py::array &a, const char *where, const char *dtype, bool writable) {
    if (!a.dtype().equal(py::dtype(dtype)) || !(a.flags() & py::array::c_style) || (writable && !a.writeable()))
        throw py::value_error(std::string("[") + where + "] expected a C-contiguous " + (writable ? "writable " : "") +
                              dtype + " array, got " + describe(a) +
                              (a.flags() & py::array::c_style ? "" : " with strides") + ".");
    return const_cast<void *>(a.data());
}

// A matrix with contiguous rows, or any contiguous array as a matrix of one row.
struct Rows {
    void *data;
    size_t rows, columns, stride; // stride in elements
};

Rows rows_of(const py::array &a, const char *where, const char *dtype, bool writable) {
    if (a.ndim() != 2 || (a.flags() & py::array::c_style)) {
        void *data = flat(a, where, dtype, writable);
        if (a.ndim() != 2) return {data, 1, static_cast<size_t>(a.size()), static_cast<size_t>(a.size())};
        const auto columns = static_cast<size_t>(a.shape(1));
        return {data, static_cast<size_t>(a.shape(0)), columns, columns};
    }
    const py::ssize_t size = a.itemsize();
    if (!a.dtype().equal(py::dtype(dtype)) || (writable && !a.writeable()) || a.strides(0) % size ||
        a.strides(0) < a.shape(1) * size || (a.shape(1) > 1 && a.strides(1) != size))
        throw py::value_error(std::string("[") + where + "] expected " + (writable ? "writable " : "") + dtype +
                              " rows that are contiguous and apart, got " + describe(a) + " with strides.");
    return {const_cast<void *>(a.data()), static_cast<size_t>(a.shape(0)), static_cast<size_t>(a.shape(1)),
            static_cast<size_t>(a.strides(0) / size)};
}

using Convert = void (*)(const void *from, size_t from_stride, void *to, size_t to_stride, size_t rows, size_t columns);

template <class From, class To, void (*f)(const From *, size_t, To *, size_t, size_t, size_t)>
void typed(const void *from, size_t from_stride, void *to, size_t to_stride, size_t rows, size_t columns) {
    f(static_cast<const From *>(from), from_stride, static_cast<To *>(to), to_stride, rows, columns);
}

void convert(const char *where, const py::array &in, const char *in_dtype, const py::array &out, const char *out_dtype,
             bool transposed, Convert f) {
    const Rows from = rows_of(in, where, in_dtype, false), to = rows_of(out, where, out_dtype, true);
    const bool fits = transposed
                          ? in.ndim() == 2 && out.ndim() == 2 && from.rows == to.columns && from.columns == to.rows
                          : from.rows == to.rows && from.columns == to.columns;
    const bool packed = from.stride == from.columns && to.stride == to.columns;
    if (transposed ? !fits : !fits && !packed)
        throw py::value_error(std::string("[") + where + "] expected out to have " +
                              (transposed ? "the transposed shape" : "the same shape") + ", got " + describe(in) +
                              " and " + describe(out) + ".");
    same_size(where, in, out);
    WithoutGil free;
    if (fits) f(from.data, from.stride, to.data, to.stride, from.rows, from.columns);
    else f(from.data, in.size(), to.data, in.size(), 1, in.size()); // packed both: only the count matters
}

void from_floats(const py::array &x, const py::array &out) {
    convert("half_from_floats", x, "float32", out, "float16", false, typed<float, uint16_t, half_from_floats_rows>);
}

void to_floats(const py::array &h, const py::array &out) {
    convert("half_to_floats", h, "float16", out, "float32", false, typed<uint16_t, float, half_to_floats_rows>);
}

void from_floats_transposed(const py::array &x, const py::array &out) {
    convert("half_from_floats_transposed", x, "float32", out, "float16", true,
            typed<float, uint16_t, half_from_floats_transposed>);
}

void to_floats_transposed(const py::array &h, const py::array &out) {
    convert("half_to_floats_transposed", h, "float16", out, "float32", true,
            typed<uint16_t, float, half_to_floats_transposed>);
}

std::vector<int64_t> rounded(const std::vector<py::array> &weights, const std::vector<py::array> &outs,
                             const std::vector<bool> &transposed) {
    if (weights.size() != outs.size() || weights.size() != transposed.size())
        throw py::value_error("[round_weights] expected as many outs and flags as weights.");
    std::vector<RoundedWeight> list;
    for (size_t i = 0; i < weights.size(); i++) {
        const py::array &w = weights[i], &out = outs[i];
        auto *from = static_cast<const float *>(flat(w, "round_weights", "float32", false));
        auto *to = static_cast<uint16_t *>(flat(out, "round_weights", "float16", true));
        same_size("round_weights", w, out);
        if (transposed[i] && w.ndim() != 2)
            throw py::value_error("[round_weights] expected a matrix to transpose, got " + describe(w) + ".");
        const int64_t rows = w.ndim() ? w.shape(0) : 1;
        list.push_back({from, to, rows, rows ? w.size() / rows : 0, transposed[i]});
    }
    std::vector<int64_t> lost(list.size());
    computing("round_weights", [&] { round_weights(list.data(), static_cast<int64_t>(list.size()), lost.data()); });
    return lost;
}

MatrixView matrix(const py::array &a, const char *name) {
    const bool half = a.dtype().equal(py::dtype("float16"));
    if ((!half && !a.dtype().equal(py::dtype("float32"))) || a.ndim() != 2)
        throw py::value_error(std::string("[gemm] expected ") + name + " to be a float16 or float32 matrix, got " +
                              describe(a) + ".");
    const py::ssize_t size = half ? 2 : 4;
    if (a.strides(0) % size || a.strides(1) % size)
        throw py::value_error(std::string("[gemm] expected strides of ") + name + " in whole elements.");
    return {a.data(), half ? Elem::f16 : Elem::f32, a.strides(0) / size, a.strides(1) / size};
}

void gemm_arrays(const py::array &a, const py::array &b, const py::array &out, bool accumulate, bool reference,
                 bool fixed) {
    Gemm g{};
    g.a = matrix(a, "a");
    g.b = matrix(b, "b");
    const MatrixView c = matrix(out, "out");
    g.m = a.shape(0), g.k = a.shape(1), g.n = b.shape(1);
    if (b.shape(0) != g.k || out.shape(0) != g.m || out.shape(1) != g.n)
        throw py::value_error("[gemm] expected (m, k) by (k, n) into (m, n), got " + describe(a) + " by " +
                              describe(b) + " into " + describe(out) + ".");
    if (!out.writeable() || (g.n > 1 && c.col_stride != 1))
        throw py::value_error("[gemm] expected out to be writable with contiguous rows.");
    if (accumulate && c.elem != Elem::f32)
        throw py::value_error("[gemm] expected float32 out to accumulate into, got " + describe(out) + ".");
    if (fixed && (g.a.elem != Elem::f16 || g.b.elem != Elem::f16 || c.elem != Elem::f16))
        throw py::value_error("[gemm] expected float16 a, b and out for fixed, got " + describe(a) + ", " +
                              describe(b) + " and " + describe(out) + ".");
    g.arithmetic = fixed ? Arithmetic::fixed : Arithmetic::fp32;
    g.c = const_cast<void *>(c.data);
    g.c_elem = c.elem;
    g.c_row_stride = c.row_stride;
    g.accumulate = accumulate;
    computing("gemm", [&] { reference ? gemm_reference(g) : gemm(g); });
}

void want_halves(const py::array &h, const char *where) {
    if (h.itemsize() != 2 || !h.dtype().equal(py::dtype("float16")) || !(h.flags() & py::array::c_style))
        throw py::value_error(std::string("[") + where + "] expected h to be C-contiguous float16, got " + describe(h) +
                              ".");
}

bool overflows(const py::array &h) {
    want_halves(h, "half_overflows");
    WithoutGil free;
    return half_overflows(static_cast<const uint16_t *>(h.data()), static_cast<size_t>(h.size()));
}

py::tuple zero_lines(const py::array &h) {
    want_halves(h, "half_zero_lines");
    if (h.ndim() < 2 || h.size() == 0) return py::make_tuple(0, 0);
    const auto outer = static_cast<size_t>(h.shape(0)), columns = static_cast<size_t>(h.shape(h.ndim() - 1));
    half_zero found;
    {
        py::gil_scoped_release free;
        std::vector<uint16_t> seen(columns);
        found = half_zero_lines(static_cast<const uint16_t *>(h.data()), outer,
                                static_cast<size_t>(h.size()) / outer / columns, columns, seen.data());
    }
    return py::make_tuple(found.rows, found.columns);
}

py::tuple health(const py::array &h) {
    want_halves(h, "half_health");
    half_health found;
    {
        WithoutGil free;
        found = half_health_of(static_cast<const uint16_t *>(h.data()), static_cast<size_t>(h.size()));
    }
    return py::make_tuple(found.inf, found.nan, found.denormal, found.zero, found.saturated, found.largest);
}

py::bytes hash(const py::object &file) {
    const View view(file, "blob_hash");
    uint64_t found[2];
    {
        WithoutGil free;
        blob_hash(view.data(), view.bytes(), found);
    }
    return {reinterpret_cast<const char *>(found), sizeof found};
}

} // namespace

void init_arrays(py::module_ &m) {
    m.def("blob_hash", &hash, py::arg("file"), "16 bytes that differ where two files do, but for chance.");
    m.def("blob_layout", &layout, py::arg("nbytes"),
          "Where tensors of these sizes go in one file: (record offsets, data offsets, file size).");
    m.def("blob_write", &write, py::arg("tensors"), "A whole blob file holding these arrays, in order.");
    m.def("blob_write_records", &write_records, py::arg("file").noconvert(), py::arg("nbytes"),
          "Header and records of fp16 tensors, into a zeroed file of blob_layout's size.");
    m.def("blob_read", &read, py::arg("file"), py::arg("offset"),
          "The tensor whose record is at `offset`, copied, one-dimensional. ValueError on a bad file.");
    m.def("half_from_floats", &from_floats, py::arg("x"), py::arg("out"),
          "fp32 to fp16, nearest even; contiguous, or matrices with contiguous rows.");
    m.def("half_to_floats", &to_floats, py::arg("h"), py::arg("out"),
          "fp16 to fp32, exact; contiguous, or matrices with contiguous rows.");
    m.def("half_from_floats_transposed", &from_floats_transposed, py::arg("x"), py::arg("out"),
          "x (r, c) fp32 into out (c, r) fp16; rows contiguous, any distance apart.");
    m.def("half_to_floats_transposed", &to_floats_transposed, py::arg("h"), py::arg("out"),
          "h (r, c) fp16 into out (c, r) fp32; rows contiguous, any distance apart.");
    m.def("round_weights", &rounded, py::arg("weights"), py::arg("outs"), py::arg("transposed"),
          "Each fp32 weight into its fp16 out, in parallel. Returns how many values of each fp16 cannot hold.");
    m.def(
        "half_health", &health, py::arg("h"),
        "(inf, nan, denormal, zero, saturated, largest finite magnitude) of an fp16 array; saturated: 32752 and more.");
    m.def(
        "half_zero_lines", &zero_lines, py::arg("h"),
        "(channels, positions) of an fp16 array [B, C, 1, S] that are 0 throughout, summed over B; axes 1 to the last "
        "but one count as channels.");
    m.def("half_overflows", &overflows, py::arg("h"), "Whether an fp16 array holds an inf or a NaN.");
    m.def("half_isa", &half_isa);
    m.def("gemm", &gemm_arrays, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
          py::arg("reference") = false, py::arg("fixed") = false,
          "out = a b, or out += a b: (m, k) by (k, n), fp16 or fp32; one fused multiply-add chain per element.\n\n"
          "fixed: the Q15.16 products of M4 and M6 (csrc/cpu/gemm/fixed.h), of fp16 arrays.");
    m.def("gemm_isa", &gemm_isa);
}

} // namespace anefast::bind
