// The class behind _C.UnstoredGradients, which head_loss_grad (training.cpp) fills and the optimiser empties.
#pragma once

#include "bind.h"

#include "../cpu/embed.h"
#include "../cpu/head.h"
#include "../cpu/update.h"

namespace anefast::bind {

// The checked arrays of an update, whose gradients have these shapes and are still to be set. (optim.cpp)
std::vector<Tensor> tensors_of(const char *where, const UpdateRule &rule, const Arrays &weights,
                               const std::vector<Arrays> &states, const std::vector<float> &rates,
                               const std::vector<float> &decays, const std::vector<Shape> &shapes);

struct Tap {
    std::shared_ptr<Surface> surface;
    int64_t elements = 0; // halves of it that count
};

class UnstoredGradients : public Counted {
  public:
    UnstoredGradients(int64_t batch, int64_t seq);
    void add(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, int64_t rows, int64_t columns);
    void embed(const py::array &tokens, const std::shared_ptr<Surface> &dx);
    bool finite() const;
    double update(const UpdateRule &rule, const Arrays &weights, const std::vector<Arrays> &states,
                  const std::vector<float> &rates, const std::vector<float> &decays);

    HeadTaps head; // no tokens: nothing of a classifier flows

  private:
    struct Matrix {
        Tap dy, x;
        int64_t rows, columns;
    };
    Tap tap(const std::shared_ptr<Surface> &surface, int64_t channels) const;

    const int64_t batch_, seq_;
    std::vector<Matrix> matrices_;
    std::vector<int32_t> tokens_;
    Tap dx_;
};

} // namespace anefast::bind
