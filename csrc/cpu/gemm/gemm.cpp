// The matrix product: which kernels, how C is cut into tasks, and the order tasks keep. Numbers are gemm.h's.
//
// B is packed to panels once for all tasks, in steps of at most PACK_ELEMENTS; C is cut into tiles of rows
// by columns, one task each. Inside a task, k goes in blocks short enough for a panel of B to stay in the nearest
// caches, and each chain resumes from the fp32 partial that the block before it stored, so blocks never show.
// A is copied or converted block by block into a thread's own memory. What makes B goes before the packing of its
// columns, in the task that packs them; what follows C goes at the end of the tile that makes it.
#include "gemm.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <vector>

#include "../../half.h"
#include "../../round.h"
#include "fixed.h"
#include "kernels.h"
#include "library.h"
#include "path.h"
#include "rows.h"
#include "thin.h"
#include "../pool.h"
#include "../scratch.h"

namespace anefast {
namespace {

constexpr int64_t K_BLOCK = 384;                      // nr * K_BLOCK floats of B, streamed once per mr rows
constexpr int64_t PACK_ELEMENTS = 512 * 1024;         // of B per step: 2 MB of fp32
constexpr int64_t COLUMNS_MOST = 288, ROWS_MOST = 96; // whole panels of 16, 32 and 48; whole tiles of 4, 6 and 8
constexpr int64_t STRIDED_ROWS_MOST =
    192; // where A is transposed: so many elements of each row of memory are read at once
constexpr int64_t PROLOGUE_COLUMNS = 64;                // two cache lines of fp16
constexpr int64_t SERIAL_PRODUCTS = 400 * 1000;         // below this one thread is done before another wakes
constexpr int64_t TASK_PRODUCTS = 4 * 1000 * 1000;      // about 80 us of one core
constexpr int64_t LIBRARY_PRODUCTS = 100 * 1000 * 1000; // likewise, at a matrix unit's published 1.9 TFLOPS

const GemmKernels &kernels_for(const Gemm &g) {
    const GemmPath &path = gemm_path();
    if (g.arithmetic == Arithmetic::fixed) return *path.fixed;
    return g.a.elem == Elem::f16 && g.b.elem == Elem::f16 ? *path.halves : *path.floats;
}

bool is_transposed(const MatrixView &a) { return a.row_stride == 1 && a.col_stride != 1; }

bool goes_to_library(const Gemm &g) {
    return g.any_order && gemm_path().library && g.c_elem == Elem::f32 && g.k > 0 &&
           std::max({g.m, g.n, g.k, g.c_row_stride}) < INT32_MAX;
}

thread_local Scratch a_scratch, partial_scratch, b_scratch;

// Never destroyed: a worker may outlive static destructors.
ScratchShelf &shelf() {
    static ScratchShelf &one = *new ScratchShelf;
    return one;
}

// How one product is cut into tasks 0..count-1, to be started in order by any threads:
// for each step (columns outer, k inner): pack_tasks that fill the panels, then tile_tasks that use them.
struct Tiling {
    Gemm g;
    const GemmKernels &kern;
    bool alone;                                            // all tasks on one thread, B packed into its own scratch
    int64_t step_k, step_columns, tile_rows, tile_columns; // k and columns of a step; of a task

    Tiling(const Gemm &product, int64_t tasks_wanted) : g(product), kern(kernels_for(product)) {
        const int64_t products = g.m * g.n * std::max<int64_t>(g.k, 1);
        alone = tasks_wanted <= 1 || products <= SERIAL_PRODUCTS;
        const int64_t n = round_up(g.n, kern.nr);
        step_columns = std::min(n, std::max(kern.nr, PACK_ELEMENTS / 256 / kern.nr * kern.nr));
        step_k = kern.whole_k ? g.k : std::min(g.k, std::max<int64_t>(PACK_ELEMENTS / step_columns, K_BLOCK));
        if (step_k < g.k) // equal steps
            step_k = std::min(g.k, round_up(ceil_div(g.k, ceil_div(g.k, step_k)), kern.k_unit));
        if (step_k == g.k)
            step_columns =
                std::min(n, std::max(kern.nr, PACK_ELEMENTS / std::max<int64_t>(g.k, 1) / kern.nr * kern.nr));

        tile_columns = std::min(step_columns, COLUMNS_MOST / kern.nr * kern.nr);
        const bool strided = is_transposed(g.a);
        int64_t rows = strided ? STRIDED_ROWS_MOST : ROWS_MOST;
        if (!alone) {
            if (!strided) rows = std::min(rows, TASK_PRODUCTS / std::max<int64_t>(step_k * tile_columns, 1));
            rows = std::min(rows,
                            ceil_div(g.m, std::max<int64_t>(1, tasks_wanted / ceil_div(step_columns, tile_columns))));
        }
        const int64_t unit = g.epilogue ? std::lcm(kern.mr, g.epilogue->unit) : kern.mr;
        tile_rows = std::max(round_up(std::min(rows, g.m), unit), std::min(4 * unit, round_up(g.m, unit)));
        if (tile_rows < g.m) // even out the last one
            tile_rows = round_up(ceil_div(g.m, ceil_div(g.m, tile_rows)), unit);
        while (!alone && !strided && tile_columns > 4 * kern.nr &&
               ceil_div(g.m, tile_rows) * ceil_div(step_columns, tile_columns) < tasks_wanted)
            tile_columns = round_up(tile_columns / 2, kern.nr);
    }

    int64_t panel_bytes() const { return round_up(step_k, kern.k_unit) * kern.nr * kern.packed_bytes; }
    int64_t k_steps() const { return std::max<int64_t>(1, ceil_div(g.k, std::max<int64_t>(step_k, 1))); }
    int64_t columns_of(int64_t column_step) const { return std::min(step_columns, g.n - column_step * step_columns); }
    // By columns where something makes them first, else by k.
    int64_t pack_tasks(int64_t columns) const {
        return g.prologue ? ceil_div(columns, columns_per_pack())
                          : ceil_div(std::max<int64_t>(step_k, 1), k_per_pack(columns));
    }
    int64_t columns_per_pack() const { return std::max(PROLOGUE_COLUMNS / kern.nr, int64_t{1}) * kern.nr; }
    int64_t k_per_pack(int64_t columns) const {
        return round_up(ceil_div(16384, columns), std::max<int64_t>(16, kern.k_unit));
    }
    int64_t tile_tasks(int64_t columns) const { return ceil_div(g.m, tile_rows) * ceil_div(columns, tile_columns); }
    int64_t tasks() const {
        const int64_t full = g.n / step_columns, rest = g.n % step_columns;
        const auto of = [&](int64_t columns) { return pack_tasks(columns) + tile_tasks(columns); };
        return k_steps() * (full * of(step_columns) + (rest ? of(rest) : 0));
    }
};

// A product in tasks, with the memory it needs while it runs.
struct TiledProduct : Tiling {
    ScratchShelf::Lent panels{nullptr, {}}, partials{nullptr, {}};
    uint8_t *packed = nullptr; // B's panels
    float *partial = nullptr;  // fp32 C of a column step, where C is fp16 and k takes several steps
    std::atomic<int64_t> done{0};

    TiledProduct(const Gemm &product, int64_t tasks_wanted) : Tiling(product, tasks_wanted) {
        if (!alone) {
            panels = shelf().take();
            packed = panels->get_bytes(panel_bytes() * step_columns / kern.nr);
        }
        if (g.c_elem == Elem::f16 && step_k < g.k) {
            partials = shelf().take();
            partial = partials->get(g.m * step_columns);
        }
    }

    void run(int64_t task) {
        const int64_t per_step = pack_tasks(step_columns) + tile_tasks(step_columns);
        const int64_t column_step = std::min(task / (per_step * k_steps()), ceil_div(g.n, step_columns) - 1);
        int64_t first = column_step * per_step * k_steps(); // of the phase this task is in
        const int64_t columns = columns_of(column_step), packs = pack_tasks(columns), tiles = tile_tasks(columns);
        const int64_t k_step = (task - first) / (packs + tiles);
        first += k_step * (packs + tiles);
        const bool is_pack = task - first < packs;
        if (!is_pack) first += packs;
        if (!alone)
            wait_until(done, first); // every task of the phases before: none of this phase can have finished earlier
        else if (is_pack) packed = b_scratch.get_bytes(panel_bytes() * step_columns / kern.nr);
        if (is_pack) pack(task - first, column_step * step_columns, columns, k_step * step_k);
        else tile(task - first, column_step * step_columns, columns, k_step * step_k);
        done.fetch_add(1, std::memory_order_release);
    }

    void run_all() {
        for (int64_t i = 0, n = tasks(); i < n; ++i) run(i);
    }

    void pack(int64_t index, int64_t column, int64_t columns, int64_t k_first) const {
        int64_t k = 0, k_count = std::min(step_k, g.k - k_first), left = 0, width = columns;
        if (g.prologue) {
            left = index * columns_per_pack();
            width = std::min(columns_per_pack(), columns - left);
            if (k_first == 0) (*g.prologue)(g.first_column + column + left, width);
        } else {
            k = index * k_per_pack(columns);
            k_count = std::min(k_per_pack(columns), k_count - k);
        }
        if (k_count > 0)
            kern.pack_b(g.b, k_first + k, k_count, column + left, width,
                        packed + left / kern.nr * panel_bytes() + k * kern.nr * kern.packed_bytes, panel_bytes());
    }

    void tile(int64_t index, int64_t step_column, int64_t step_width, int64_t k_first) const {
        const int64_t across = ceil_div(step_width, tile_columns);
        const int64_t row = index / across * tile_rows, rows = std::min(tile_rows, g.m - row);
        const int64_t left = index % across * tile_columns, width = std::min(tile_columns, step_width - left);
        const int64_t k_count = std::min(step_k, g.k - k_first);
        const bool half = g.c_elem == Elem::f16;
        const int64_t c_size = half ? 2 : 4;
        char *const c = static_cast<char *>(g.c) + (row * g.c_row_stride + step_column + left) * c_size;

        const int64_t block = k_count > K_BLOCK && !kern.whole_k
                                  ? round_up(ceil_div(k_count, ceil_div(k_count, K_BLOCK)), kern.k_unit)
                                  : std::max<int64_t>(k_count, 1);

        // Where partial sums wait between blocks: C itself, or an fp32 stand-in for an fp16 C.
        float *sums = reinterpret_cast<float *>(c);
        int64_t sums_stride = g.c_row_stride;
        if (half && partial) {
            sums = partial + row * step_columns + left;
            sums_stride = step_columns;
        } else if (half && block < k_count) {
            sums = partial_scratch.get(tile_rows * tile_columns);
            sums_stride = tile_columns;
        }

        const bool in_place = kern.in_place && kern.in_place(g);
        int64_t k = 0;
        std::optional<Entered> entered(kern);
        do { // at least once: with no k at all, C is still written
            const int64_t kc = std::min(block, k_count - k);
            const bool begins = k_first + k == 0, ends = k_first + k + kc == g.k;
            Strip s;
            take_rows(kern, g.a, row, rows, k_first + k, kc, in_place, a_scratch, &s);
            s.rows = rows;
            s.k_count = kc;
            s.start_row_stride = sums_stride;
            s.c_half = half && ends;
            s.c_row_stride = s.c_half ? g.c_row_stride : sums_stride;
            for (int64_t j = 0; j < width; j += kern.nr) {
                s.columns = std::min(kern.nr, width - j);
                s.b = packed + (left + j) / kern.nr * panel_bytes() + k * kern.nr * kern.packed_bytes;
                s.start = begins && !g.accumulate ? nullptr : sums + j;
                s.c = s.c_half ? static_cast<void *>(c + j * 2) : sums + j;
                kern.strip(s);
            }
            k += kc;
        } while (k < k_count);
        entered.reset();
        if (g.epilogue && k_first + k_count == g.k)
            g.epilogue->run(row, rows, g.first_column + step_column + left, width);
    }
};

bool empty(const Gemm &g) { return g.m <= 0 || g.n <= 0; }

// Enough tasks for threads to even out, no more: each one converts its own rows of A.
int64_t tasks_wanted() {
    const int threads = Pool::shared().threads();
    return threads == 1 ? 1 : threads * 4;
}

// A product cut by columns, a share for each thread, where A is transposed: cut by rows into as many tasks, each would
// pick a few elements out of every row of memory. Shares are wide enough to be worth packing A for once more.
std::vector<Gemm> by_columns(const Gemm &g) {
    constexpr int64_t NARROWEST = 128, UNIT = 32; // a narrow tile's columns are quick where they are whole vectors
    const int64_t shares = std::min<int64_t>(Pool::shared().threads(), g.n / NARROWEST);
    if (!is_transposed(g.a) || shares < 2 || g.m * g.n * g.k <= SERIAL_PRODUCTS) return {g};
    const int64_t wide = round_up(ceil_div(g.n, shares), UNIT);
    std::vector<Gemm> list;
    for (int64_t j = 0; j < g.n; j += wide) {
        Gemm share = g;
        share.n = std::min(wide, g.n - j);
        share.b.data = static_cast<const char *>(g.b.data) + j * g.b.col_stride * (g.b.elem == Elem::f16 ? 2 : 4);
        share.c = static_cast<char *>(g.c) + j * (g.c_elem == Elem::f16 ? 2 : 4);
        share.first_column = g.first_column + j;
        list.push_back(share);
    }
    return list;
}

// Products side by side, their tasks one after the other in one region.
void run_tiled(const Gemm *g, int64_t count, int64_t wanted) {
    std::vector<std::unique_ptr<TiledProduct>> tiled;
    std::vector<int64_t> ends; // product i has the tasks from ends[i - 1] to ends[i]
    int64_t tasks = 0;
    for (int64_t i = 0; i < count; ++i)
        if (!empty(g[i])) {
            tiled.push_back(std::make_unique<TiledProduct>(g[i], ceil_div(wanted, count)));
            ends.push_back(tasks += tiled.back()->alone ? 1 : tiled.back()->tasks());
        }
    // Whoever begins in the middle of a product waits for who began it, so threads keep apart only where products do.
    const auto run = count == Pool::shared().threads() ? &Pool::parallel_apart : &Pool::parallel;
    (Pool::shared().*run)(tasks, [&](int64_t task) {
        const auto i = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
        if (tiled[i]->alone) tiled[i]->run_all();
        else tiled[i]->run(task - (i ? ends[i - 1] : 0));
    });
}

} // namespace

void gemm(const Gemm &g) {
    if (empty(g)) return;
    if (goes_to_library(g)) return gemm_library_rows(g, 0, g.m);
    if (is_thin(g)) return gemm_thin(g, false);
    if (const std::vector<Gemm> shares = by_columns(g); shares.size() > 1)
        return run_tiled(shares.data(), static_cast<int64_t>(shares.size()), tasks_wanted());
    TiledProduct tiled(g, tasks_wanted());
    if (tiled.alone) return tiled.run_all();
    Pool::shared().parallel(tiled.tasks(), [&](int64_t i) { tiled.run(i); });
}

void gemm_alone(const Gemm &g) {
    if (empty(g)) return;
    if (is_thin(g)) return gemm_thin(g, true);
    TiledProduct(g, 1).run_all();
}

void gemm_batch(const Gemm *g, int64_t count) {
    if (count == 1) return gemm(*g);
    const int64_t wanted = tasks_wanted();
    if (count >= wanted || wanted == 1) { // products enough to go round: each stays on one thread
        int64_t products = 0;
        for (int64_t i = 0; i < count; ++i) products += g[i].m * g[i].n * g[i].k;
        const int64_t each = std::max<int64_t>(
            1, std::min(count / wanted, SERIAL_PRODUCTS / 4 * count / std::max<int64_t>(products, 1)));
        const auto run = [&](int64_t at) {
            for (int64_t i = at * each; i < std::min(count, (at + 1) * each); ++i) gemm_alone(g[i]);
        };
        const int64_t shares = ceil_div(count, each);
        if (products <= SERIAL_PRODUCTS)
            for (int64_t i = 0; i < shares; ++i) run(i);
        else Pool::shared().parallel(shares, run);
        return;
    }
    if (std::all_of(g, g + count, is_thin)) {
        std::for_each(g, g + count, gemm);
        return;
    }
    run_tiled(g, count, wanted);
}

void gemm_enqueue(const void *key, const Gemm &g, FirstError &failure) {
    if (empty(g)) return;
    if (goes_to_library(g)) {
        const int64_t rows = std::clamp<int64_t>(LIBRARY_PRODUCTS / (g.n * g.k), 1, g.m);
        Pool::shared().enqueue(
            key, ceil_div(g.m, rows),
            [g, rows](int64_t i) { gemm_library_rows(g, i * rows, std::min(rows, g.m - i * rows)); }, failure);
        return;
    }
    // The tiled product, with its packed B, is made when the first task runs: a long queue must not hold them all.
    struct Later {
        Gemm g;
        std::mutex making; // no once_flag: after an exception, some systems never let go of one
        std::unique_ptr<TiledProduct> tiled;
    };
    auto later = std::make_shared<Later>();
    later->g = g;
    const int64_t wanted = tasks_wanted();
    const Tiling tiling(g, wanted);
    const int64_t tasks = tiling.alone ? 1 : tiling.tasks();
    Pool::shared().enqueue(
        key, tasks,
        [later, wanted](int64_t i) {
            {
                std::lock_guard<std::mutex> lock(later->making);
                if (!later->tiled) later->tiled = std::make_unique<TiledProduct>(later->g, wanted);
            }
            if (later->tiled->alone) later->tiled->run_all();
            else later->tiled->run(i);
        },
        failure);
}

void fixed_reference(const Gemm &g) {
    const auto at = [](const MatrixView &v, int64_t i, int64_t j) {
        return fixed_factor(static_cast<const uint16_t *>(v.data)[i * v.row_stride + j * v.col_stride]);
    };
    for (int64_t i = 0; i < g.m; ++i)
        for (int64_t j = 0; j < g.n; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < g.k; ++k) {
                const float a = at(g.a, i, k);
                sum = fixed_add(sum, fixed_term(FIXED_ONE * a, fixed_least(a), at(g.b, k, j)));
            }
            static_cast<uint16_t *>(g.c)[i * g.c_row_stride + j] = fixed_result(sum);
        }
}

void gemm_reference(const Gemm &g) {
    if (g.arithmetic == Arithmetic::fixed) return fixed_reference(g);
    const auto at = [](const MatrixView &v, int64_t i, int64_t j) {
        const int64_t e = i * v.row_stride + j * v.col_stride;
        return v.elem == Elem::f32 ? static_cast<const float *>(v.data)[e]
                                   : half_to_float(static_cast<const uint16_t *>(v.data)[e]);
    };
    for (int64_t i = 0; i < g.m; ++i)
        for (int64_t j = 0; j < g.n; ++j) {
            const int64_t e = i * g.c_row_stride + j;
            float sum = g.accumulate ? static_cast<float *>(g.c)[e] : 0;
            for (int64_t k = 0; k < g.k; ++k) sum = std::fma(at(g.a, i, k), at(g.b, k, j), sum);
            if (g.c_elem == Elem::f32) static_cast<float *>(g.c)[e] = sum;
            else static_cast<uint16_t *>(g.c)[e] = half_from_float(sum);
        }
}

} // namespace anefast
