// The optimiser's loops over lists of fp32 arrays. The GIL is released while they run.
#include "bind.h"

#include <vector>

#include "../cpu/adafactor.h"
#include "../cpu/muon.h"
#include "../cpu/update.h"
#include "unstored.h"

namespace anefast::bind {

std::vector<Tensor> tensors_of(const char *where, const UpdateRule &rule, const Arrays &weights,
                               const std::vector<Arrays> &states, const std::vector<float> &rates,
                               const std::vector<float> &decays, const std::vector<Shape> &shapes) {
    const size_t n = shapes.size();
    bool fits = weights.size() == n && rates.size() == n && decays.size() == n;
    fits &= states.size() == static_cast<size_t>(rule.states());
    for (const Arrays &state : states) fits &= state.size() == n;
    if (!fits)
        throw py::value_error(
            "[" + std::string(where) + "] expected as many weights, rates, decays and values of each of " +
            std::to_string(rule.states()) + " states as gradients, which are " + std::to_string(n) + ".");
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < n; i++) {
        const auto part = [&](const py::array &a, const char *name) {
            return elements_of<float>(a, where, name, "float32", shapes[i], Access::write);
        };
        Tensor t{part(weights[i], "weight"), {}, nullptr, weights[i].size(), rates[i], decays[i]};
        for (size_t s = 0; s < states.size(); s++) t.state[s] = part(states[s][i], "state");
        tensors.push_back(t);
    }
    return tensors;
}

namespace {

void update_arrays(const UpdateRule &rule, const Arrays &weights, const Arrays &grads,
                   const std::vector<Arrays> &states, const std::vector<float> &rates,
                   const std::vector<float> &decays) {
    const char *where = "update";
    std::vector<Shape> shapes;
    for (const py::array &g : grads) shapes.push_back(Shape(g.shape(), g.shape() + g.ndim()));
    std::vector<Tensor> tensors = tensors_of(where, rule, weights, states, rates, decays, shapes);
    for (size_t i = 0; i < tensors.size(); i++)
        tensors[i].grad = elements_of<const float>(grads[i], where, "grad", "float32", shapes[i]);
    computing(where, [&] { update(tensors.data(), static_cast<int64_t>(tensors.size()), rule); });
}

// Fails unless all lists are as long as the weights.
void check_lists(const char *where, size_t weights, std::initializer_list<size_t> others) {
    for (size_t n : others)
        if (n != weights)
            throw py::value_error("[" + std::string(where) + "] expected lists of " + std::to_string(weights) +
                                  ", as there are weights, got one of " + std::to_string(n) + ".");
}

void adafactor_arrays(const Arrays &weights, const Arrays &grads, const Arrays &rows, const Arrays &columns,
                      const std::vector<float> &rates, const std::vector<float> &decays, float factor, float fresh,
                      float most, float epsilon, float least) {
    const char *where = "adafactor";
    check_lists(where, weights.size(), {grads.size(), rows.size(), columns.size(), rates.size(), decays.size()});
    std::vector<FactoredTensor> tensors;
    for (size_t i = 0; i < weights.size(); i++) {
        auto *w = elements_of<float>(weights[i], where, "weight", "float32", {-1, -1}, Access::write);
        const py::ssize_t m = weights[i].shape(0), n = weights[i].shape(1);
        tensors.push_back({w, elements_of<const float>(grads[i], where, "grad", "float32", {m, n}),
                           elements_of<float>(rows[i], where, "row", "float32", {m, 1}, Access::write),
                           elements_of<float>(columns[i], where, "column", "float32", {1, n}, Access::write), m, n,
                           rates[i], decays[i]});
    }
    const FactoredRule rule{factor, fresh, most, epsilon, least};
    computing(where, [&] { adafactor(tensors.data(), static_cast<int64_t>(tensors.size()), rule); });
}

void muon_arrays(const Arrays &weights, const Arrays &grads, const Arrays &momenta, const std::vector<float> &rates,
                 const std::vector<float> &decays, float factor, float momentum) {
    const char *where = "muon";
    check_lists(where, weights.size(), {grads.size(), momenta.size(), rates.size(), decays.size()});
    std::vector<MuonTensor> tensors;
    for (size_t i = 0; i < weights.size(); i++) {
        auto *w = elements_of<float>(weights[i], where, "weight", "float32", {-1, -1}, Access::write);
        const py::ssize_t m = weights[i].shape(0), n = weights[i].shape(1);
        tensors.push_back({w, elements_of<const float>(grads[i], where, "grad", "float32", {m, n}),
                           elements_of<float>(momenta[i], where, "momentum", "float32", {m, n}, Access::write), m, n,
                           rates[i], decays[i]});
    }
    computing(where, [&] { muon(tensors.data(), static_cast<int64_t>(tensors.size()), factor, momentum); });
}

void newton_schulz_array(const py::array &x) {
    auto *data = elements_of<float>(x, "newton_schulz", "x", "float32", {-1, -1}, Access::write);
    const py::ssize_t m = x.shape(0), n = x.shape(1);
    computing("newton_schulz", [&] { newton_schulz(data, m, n); });
}

void average_arrays(const Arrays &averages, const Arrays &values, float part) {
    const char *where = "average";
    check_lists(where, averages.size(), {values.size()});
    std::vector<float *> into;
    std::vector<const float *> from;
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < averages.size(); i++) {
        const Shape shape(values[i].shape(), values[i].shape() + values[i].ndim());
        from.push_back(elements_of<const float>(values[i], where, "value", "float32", shape));
        into.push_back(elements_of<float>(averages[i], where, "average", "float32", shape, Access::write));
        sizes.push_back(values[i].size());
    }
    computing(where,
              [&] { average(into.data(), from.data(), sizes.data(), static_cast<int64_t>(sizes.size()), part); });
}

py::array_t<double> squares_of(const Arrays &arrays) {
    std::vector<const float *> data;
    std::vector<int64_t> sizes;
    for (const py::array &a : arrays) {
        data.push_back(elements_of<const float>(a, "squares", "arrays", "float32", {-1}));
        sizes.push_back(a.shape(0));
    }
    const std::vector<double> sums =
        computing("squares", [&] { return squares(data.data(), sizes.data(), static_cast<int64_t>(data.size())); });
    return py::array_t<double>(static_cast<py::ssize_t>(sums.size()), sums.data());
}

} // namespace

void init_optim(py::module_ &m) {
    using py::arg;
    py::class_<UpdateRule>(m, "UpdateRule", "An elementwise update; anefast/optim/ has one file for each.")
        .def_static(
            "adamw",
            [](float factor, float beta1, float beta2, float epsilon, double bias1, double bias2) {
                return UpdateRule{Kind::adamw, factor, beta1, beta2, epsilon, bias1, bias2, false};
            },
            arg("factor"), arg("beta1"), arg("beta2"), arg("epsilon"), arg("bias1"), arg("bias2"),
            "States: mean and square. bias: 1 - beta ** step.")
        .def_static(
            "lion",
            [](float factor, float beta1, float beta2) {
                return UpdateRule{Kind::lion, factor, beta1, beta2, 0, 1, 1, false};
            },
            arg("factor"), arg("beta1"), arg("beta2"), "State: momentum.")
        .def_static(
            "sgd",
            [](float factor, float momentum, bool nesterov) {
                return UpdateRule{Kind::sgd, factor, momentum, 0, 0, 1, 1, nesterov};
            },
            arg("factor"), arg("momentum"), arg("nesterov"), "State: momentum, where it is not 0.");
    m.def("update", &update_arrays, arg("rule"), arg("weights"), arg("grads"), arg("states"), arg("rates"),
          arg("decays"),
          "One update of factor * grads, in place; grads are read only. states: the arrays of each, in the order of "
          "weights.");
    m.def("adafactor", &adafactor_arrays, arg("weights"), arg("grads"), arg("rows"), arg("columns"), arg("rates"),
          arg("decays"), arg("factor"), arg("fresh"), arg("most"), arg("epsilon"), arg("least"),
          "One Adafactor update of matrices (m, n), in place; rows (m, 1), columns (1, n). csrc/cpu/adafactor.h.");
    m.def("muon", &muon_arrays, arg("weights"), arg("grads"), arg("momenta"), arg("rates"), arg("decays"),
          arg("factor"), arg("momentum"),
          "One Muon update of matrices, in place. decays: their part that is lost. csrc/cpu/muon.h.");
    m.def("newton_schulz", &newton_schulz_array, arg("x"), "Brings the singular values of a matrix near 1, in place.");
    m.def("average", &average_arrays, arg("averages"), arg("values"), arg("part"),
          "averages += part * (values - averages).");
    m.def("squares", &squares_of, arg("arrays"),
          "Sums of squares in double, of each UPDATE_PANEL values of each array.");
    m.attr("UPDATE_PANEL") = UPDATE_PANEL;
}

} // namespace anefast::bind
