// Running a chain: its instructions block by block, on all threads or where a product asks for a part.
#include "block_kernel.h"

#include <algorithm>
#include <cstring>

#include "../../cpu/pool.h"
#include "../../round.h"
#include "../ops/convert.h"

namespace anefast::host {

Rows ChainKernel::at(Block &block, int place, int64_t row, int64_t columns) const {
    const Place &p = places[static_cast<size_t>(place)];
    if (p.where == Place::slot) return {block.slots[p.index], columns};
    if (p.where == Place::row) return {block.lines[p.index], 0};
    const int64_t stride = p.strides[p.strides.size() - 2];
    return {block.base[static_cast<size_t>(place)] + row * stride, stride};
}

void ChainKernel::run_list(const std::vector<Instruction> &list, Block &block, int64_t row, int64_t n,
                           int64_t columns) const {
    const HalfKernels &kernels = half_kernels();
    for (const Instruction &i : list) {
        const Rows z = i.z < 0 ? Rows{} : at(block, i.z, row, columns),
                   a = i.a < 0 ? Rows{} : at(block, i.a, row, columns);
        switch (i.act) {
        case Instruction::binary:
            kernels.binary[static_cast<int>(i.op)](z, a, at(block, i.b, row, columns), n, columns);
            break;
        case Instruction::lookup:
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < columns; c++) z.data[r * z.stride + c] = i.values[a.data[r * a.stride + c]];
            break;
        case Instruction::magnitude: kernels.magnitudes(z, a, n, columns); break;
        case Instruction::spread: // one element per row
            for (int64_t r = 0; r < n; r++) std::fill_n(z.data + r * z.stride, columns, a.data[r * a.stride]);
            break;
        case Instruction::copy:
            for (int64_t r = 0; r < n; r++) std::copy_n(a.data + r * a.stride, columns, z.data + r * z.stride);
            break;
        case Instruction::add: kernels.add_rows(a, n, columns, block.totals[i.sum]); break;
        case Instruction::largest: kernels.largest_rows(a, n, columns, block.most[i.sum]); break;
        case Instruction::greatest: kernels.greatest_rows(a, n, columns, block.most[i.sum]); break;
        case Instruction::finish:
            for (int64_t c = 0; c < columns; c++) z.data[c] = half_from_double(block.totals[i.sum][c] / i.count);
            break;
        case Instruction::finish_largest:
            for (int64_t c = 0; c < columns; c++) z.data[c] = half_of_rank(block.most[i.sum][c]);
        }
    }
}

void ChainKernel::set_base(const Frame &frame, Block &block, int64_t outer, int64_t column) const {
    for (size_t p = 0; p < places.size(); p++) {
        const Place &place = places[p];
        if (place.where != Place::memory) continue;
        int64_t at = place.offset + column * place.strides.back(), rest = outer;
        for (size_t d = dims.size() - 2; d-- > 0;) {
            at += rest % dims[d] * place.strides[d];
            rest /= dims[d];
        }
        block.base[p] = frame.at<uint16_t>(place.ref) + at;
    }
}

void ChainKernel::run_columns(Block &block, int64_t row, int64_t count, int64_t columns) const {
    const int64_t step = std::max<int64_t>(1, BLOCK_ELEMENTS / columns);
    if (reduces) {
        std::memset(block.totals, 0, sizeof block.totals);
        std::fill_n(block.most[0], REDUCTIONS * COLUMNS, LOWEST_RANK);
    }
    for (const Stage &stage : stages) {
        for (int64_t r = row; r < row + count; r += step)
            run_list(stage.walk, block, r, std::min(step, row + count - r), columns);
        run_list(stage.rows, block, 0, 1, columns);
    }
}

void ChainKernel::run_part(const Frame &frame, Block &block, int64_t outer, int64_t row, int64_t count, int64_t begin,
                           int64_t end) const {
    for (int64_t column = begin; column < end; column += width()) {
        set_base(frame, block, outer, column);
        run_columns(block, row, count, std::min(width(), end - column));
    }
}

void ChainKernel::run(const Frame &frame) const {
    const int64_t total = outer() * rows() * columns();
    // Without reductions any rows and columns make a turn.
    const int64_t height =
        reduces ? rows() : std::min(rows(), std::max<int64_t>(1, static_cast<int64_t>(GRAIN) / width()));
    const int64_t span =
        reduces ? width() : std::max<int64_t>(1, static_cast<int64_t>(GRAIN) / (width() * height)) * width();
    const int64_t across = ceil_div(columns(), span), down = ceil_div(rows(), height);
    auto turn = [&](int64_t i) {
        Block block;
        const int64_t begin = i % across * span, row = i / across % down * height;
        run_part(frame, block, i / across / down, row, std::min(height, rows() - row), begin,
                 std::min(begin + span, columns()));
    };
    const int64_t turns = outer() * across * down;
    if (total >= static_cast<int64_t>(WORTH_WAKING)) return Pool::shared().parallel(turns, turn);
    for (int64_t i = 0; i < turns; i++) turn(i);
}

void ChainKernel::run_rows(const Frame &frame, int64_t first_row, int64_t count, int64_t column,
                           int64_t columns) const {
    Block block;
    for (int64_t done = 0; done < count;) {
        const int64_t outer = (first_row + done) / rows(), row = (first_row + done) % rows();
        const int64_t n = std::min(rows() - row, count - done);
        run_part(frame, block, outer, row, n, column, column + columns);
        done += n;
    }
}

int64_t ChainKernel::rows_each(const std::set<int32_t> &values, int64_t most, int64_t wide) const {
    int64_t each = 0;
    for (const Place &p : places) {
        if (p.where != Place::memory || !values.count(p.value)) continue;
        const int64_t stride = p.strides[dims.size() - 2], its = stride / wide;
        if (columns() != wide || its < 1 || stride % wide || most % its || (each && its != each)) return 0;
        if (p.offset % wide || p.offset / wide >= its || p.strides.back() != 1) return 0;
        for (size_t d = 0; d + 2 < dims.size(); d++)
            if (p.strides[d] != dims[d + 1] * p.strides[d + 1]) return 0;
        each = its;
    }
    return each;
}

} // namespace anefast::host
