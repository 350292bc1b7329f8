// The class behind _C.Flow, which head_loss_grad (training.cpp) fills and the optimiser empties.
#pragma once

#include "bind.h"

#include "../cpu/embed.h"
#include "../cpu/head.h"

namespace anefast::bind {

struct Tap {
    std::shared_ptr<Surface> surface;
    int64_t elements = 0; // halves of it that count
};

class Flow {
  public:
    Flow(int64_t batch, int64_t seq);
    void add(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, int64_t rows, int64_t columns);
    void embed(const py::array &tokens, const std::shared_ptr<Surface> &dx);
    bool finite() const;
    double update(const Arrays &weights, const Arrays &means, const Arrays &squares, const std::vector<float> &decays,
                  float factor, float lr, float beta1, float beta2, float epsilon, double bias1, double bias2);

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
