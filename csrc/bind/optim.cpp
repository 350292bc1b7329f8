// The optimiser's loops over lists of flat fp32 arrays. The GIL is released while they run.
#include "bind.h"

#include <vector>

#include "../cpu/adamw.h"

namespace anefast::bind {

namespace {

void adamw_arrays(const Arrays &weights, const Arrays &grads, const Arrays &means, const Arrays &squares,
                  const std::vector<float> &decays, float factor, float lr, float beta1, float beta2, float epsilon,
                  double bias1, double bias2) {
    const char *where = "adamw";
    const size_t n = weights.size();
    if (grads.size() != n || means.size() != n || squares.size() != n || decays.size() != n)
        throw py::value_error("[adamw] expected as many gradients, moments and decays as weights, which are " +
                              std::to_string(n) + ".");
    std::vector<AdamTensor> tensors;
    tensors.reserve(n);
    for (size_t i = 0; i < n; i++) {
        auto *w = elements_of<float>(weights[i], where, "weight", "float32", {-1}, Access::write);
        const py::ssize_t size = weights[i].shape(0);
        tensors.push_back({w, elements_of<float>(means[i], where, "mean", "float32", {size}, Access::write),
                           elements_of<float>(squares[i], where, "square", "float32", {size}, Access::write),
                           elements_of<const float>(grads[i], where, "grad", "float32", {size}), size, decays[i]});
    }
    const AdamRule rule{factor, lr, beta1, beta2, epsilon, bias1, bias2};
    computing(where, [&] { adamw(tensors.data(), static_cast<int64_t>(n), rule); });
}

double squared_norm_arrays(const Arrays &arrays) {
    std::vector<const float *> data;
    std::vector<int64_t> sizes;
    for (const py::array &a : arrays) {
        data.push_back(elements_of<const float>(a, "squared_norm", "arrays", "float32", {-1}));
        sizes.push_back(a.shape(0));
    }
    return computing("squared_norm",
                     [&] { return squared_norm(data.data(), sizes.data(), static_cast<int64_t>(data.size())); });
}

} // namespace

void init_optim(py::module_ &m) {
    using py::arg;
    m.def("adamw", &adamw_arrays, arg("weights"), arg("grads"), arg("means"), arg("squares"), arg("decays"),
          arg("factor"), arg("lr"), arg("beta1"), arg("beta2"), arg("epsilon"), arg("bias1"), arg("bias2"),
          "One AdamW update of factor * grads, in place; grads are read only. bias: 1 - beta ** step.");
    m.def("squared_norm", &squared_norm_arrays, arg("arrays"), "Sum of squares of all of them, in double.");
}

} // namespace anefast::bind
