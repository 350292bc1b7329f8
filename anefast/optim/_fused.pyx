# distutils: extra_compile_args = -fno-math-errno -fno-trapping-math
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""AdamW of one tensor as one plain loop on one thread: what csrc/cpu/adamw.cpp is held to, byte for byte.

Not here: which weights decay, schedules, what a step is (adamw.py). Training runs the native loop, which is this
one in panels and vectors.
"""

from libc.math cimport sqrtf


def adamw_(
    float[::1] weight,
    const float[::1] grad,
    float[::1] mean,
    float[::1] square,
    float factor,
    float lr,
    float beta1,
    float beta2,
    float eps,
    float decay,
    double bias1,
    double bias2,
):
    """One AdamW update of one tensor; each array is read once, and all but `grad` written.

    factor: what the accumulated gradient is multiplied by first (loss scale, token count and clipping in one).
    decay: decoupled weight decay. bias1, bias2: 1 - beta ** step.
    """
    cdef Py_ssize_t i, n = weight.shape[0]
    cdef float g, m, v
    cdef float keep = <float>(1.0 - <double>lr * <double>decay)
    cdef float rate = <float>(<double>lr / bias1)
    cdef float correct = <float>(1.0 / bias2 ** 0.5)
    cdef float rest1 = <float>(1.0 - <double>beta1), rest2 = <float>(1.0 - <double>beta2)
    cdef float* w_
    cdef const float* g_
    cdef float* m_
    cdef float* v_
    if grad.shape[0] != n or mean.shape[0] != n or square.shape[0] != n:
        raise ValueError(f"[adamw] weight, gradient and moments differ in size: {n}, {grad.shape[0]}, "
                         f"{mean.shape[0]}, {square.shape[0]}.")
    if n == 0:
        return
    w_ = &weight[0]
    g_ = &grad[0]
    m_ = &mean[0]
    v_ = &square[0]
    with nogil:
        for i in range(n):
            g = g_[i] * factor
            m = beta1 * m_[i] + rest1 * g
            v = beta2 * v_[i] + rest2 * g * g
            m_[i] = m
            v_[i] = v
            w_[i] = w_[i] * keep - rate * m / (sqrtf(v) * correct + eps)
