#include <algorithm>

#include "cpu/kernels.hpp"
#include "cpu/parallel_for.hpp"
#include "experts/weight_view.hpp"
#include "fail.hpp"
#include "layer/overlap.hpp"
#include "switchyard/route.hpp"

namespace switchyard {
namespace {

constexpr const char* kStep = "router backward";

bool is_shape(const Matrix& matrix, std::int64_t rows, std::int64_t cols) {
  return matrix.rows == rows && matrix.cols == cols && matrix.stride >= cols;
}

void check_dlogits(const ConstMatrix& dlogits) {
  if (!is_float(dlogits.dtype) || dlogits.rows < 0 || dlogits.rows > kMaxTokens || dlogits.cols < 1 ||
      dlogits.cols > kMaxExperts || dlogits.stride < dlogits.cols) {
    fail(Code::invalid_argument,
         "router backward: found dlogits [{}, {}] {} with stride {}, expected f32, bf16 or f16, 0..{} tokens, 1..{} "
         "experts and a stride of at least the experts",
         dlogits.rows, dlogits.cols, dtype_name(dlogits.dtype), dlogits.stride, kMaxTokens, kMaxExperts);
  }
  if (dlogits.rows > 0 && dlogits.data == nullptr) {
    fail(Code::invalid_argument, "router backward: dlogits has no data, expected memory for {} tokens", dlogits.rows);
  }
  check_offsets(kStep, "dlogits", dlogits.rows, dlogits.stride);
}

void check_dx(const WeightView& weight, std::int64_t tokens, std::int64_t experts, const Matrix& dx) {
  if (!is_float(dx.dtype) || dx.cols < 1 || !is_shape(dx, tokens, dx.cols)) {
    fail(Code::invalid_argument,
         "router backward: found dx [{}, {}] {} with stride {}, expected {} tokens, f32, bf16 or f16 and a stride of "
         "at least the hidden size",
         dx.rows, dx.cols, dtype_name(dx.dtype), dx.stride, tokens);
  }
  if (weight.codes != Codes::plain) {
    fail(Code::not_supported, "router backward: found a weight of {} codes, expected plain numbers",
         codes_name(weight.codes));
  }
  if (weight.data == nullptr || !is_float(weight.dtype)) {
    fail(Code::invalid_argument, "router backward: found a weight {} in {}, expected data in f32, bf16 or f16",
         weight.data == nullptr ? "without data" : "with data", dtype_name(weight.dtype));
  }
  if (weight.in_stride != 1) {
    fail(Code::not_supported, "router backward: found a weight with in_stride {}, expected 1", weight.in_stride);
  }
  if (weight.out_stride < dx.cols) {
    fail(Code::invalid_argument, "router backward: found a weight with out_stride {}, expected at least {} as dx has",
         weight.out_stride, dx.cols);
  }
  check_offsets(kStep, "dx", dx.rows, dx.stride);
  check_offsets(kStep, "the weight", experts, weight.out_stride);
}

void check_dweight(const ConstMatrix& x, const ConstMatrix& dlogits, const Matrix& dweight) {
  if (!is_float(x.dtype) || x.rows != dlogits.rows || x.cols < 1 || x.stride < x.cols) {
    fail(Code::invalid_argument,
         "router backward: found x [{}, {}] {} with stride {}, expected {} tokens, f32, bf16 or f16 and a stride of "
         "at least the hidden size",
         x.rows, x.cols, dtype_name(x.dtype), x.stride, dlogits.rows);
  }
  if (x.rows > 0 && x.data == nullptr) {
    fail(Code::invalid_argument, "router backward: x has no data, expected memory for {} tokens", x.rows);
  }
  if (dweight.dtype != DType::f32 || !is_shape(dweight, dlogits.cols, x.cols)) {
    fail(Code::invalid_argument,
         "router backward: found dweight [{}, {}] {} with stride {}, expected [{}, {}] f32 and a stride of at least "
         "the hidden size",
         dweight.rows, dweight.cols, dtype_name(dweight.dtype), dweight.stride, dlogits.cols, x.cols);
  }
  check_offsets(kStep, "x", x.rows, x.stride);
  check_offsets(kStep, "dweight", dweight.rows, dweight.stride);
}

void check_memory(const ConstMatrix& x, const WeightView& weight, const ConstMatrix& dlogits, const Matrix& dx,
                  const Matrix& dweight, const float* dbias) {
  NamedMemory read;
  read.add("dlogits", bytes_of(dlogits));
  NamedMemory written;
  if (dx.data != nullptr) {
    read.add("weight", weight.data, (dlogits.cols - 1) * weight.out_stride + dx.cols, weight.dtype);
    written.add("dx", bytes_of(dx));
  }
  if (dweight.data != nullptr) {
    read.add("x", bytes_of(x));
    written.add("dweight", bytes_of(dweight));
  }
  written.add("dbias", dbias, dlogits.cols, DType::f32);
  check_apart(kStep, written, read);
}

void run_accumulate(const AccumulateArgs& all, const Kernels& kernels, const Threads& threads) {
  const std::int64_t row_pieces = (all.rows + kAccumulateRows - 1) / kAccumulateRows;
  const std::int64_t col_pieces = (all.cols + kAccumulateCols - 1) / kAccumulateCols;
  const auto a_bytes = static_cast<std::int64_t>(dtype_bytes(all.a_type));
  const auto b_bytes = static_cast<std::int64_t>(dtype_bytes(all.b_type));
  const auto out_bytes = static_cast<std::int64_t>(dtype_bytes(all.out_type));
  // Pieces that follow one another read the same columns of b.
  parallel_for(threads, row_pieces * col_pieces, [&](std::int64_t piece, int) {
    const std::int64_t row = piece % row_pieces * kAccumulateRows;
    const std::int64_t col = piece / row_pieces * kAccumulateCols;
    AccumulateArgs part = all;
    part.a = static_cast<const std::byte*>(all.a) + row * all.a_row * a_bytes;
    part.b = static_cast<const std::byte*>(all.b) + col * b_bytes;
    part.out = static_cast<std::byte*>(all.out) + (row * all.out_stride + col) * out_bytes;
    part.rows = std::min(kAccumulateRows, all.rows - row);
    part.cols = std::min(kAccumulateCols, all.cols - col);
    kernels.accumulate(part);
  });
}

}  // namespace

void router_backward(ConstMatrix x, const WeightView& weight, ConstMatrix dlogits, Matrix dx, Matrix dweight,
                     float* dbias, const Threads& threads) {
  check_dlogits(dlogits);
  if (dx.data != nullptr) {
    check_dx(weight, dlogits.rows, dlogits.cols, dx);
  }
  if (dweight.data != nullptr) {
    check_dweight(x, dlogits, dweight);
  }
  if (dx.data != nullptr && dweight.data != nullptr && dx.cols != dweight.cols) {
    fail(Code::invalid_argument, "router backward: found a hidden size of {} in dx, expected {} as in x", dx.cols,
         x.cols);
  }
  check_memory(x, weight, dlogits, dx, dweight, dbias);
  const Kernels& kernels = current_kernels();
  const std::int64_t tokens = dlogits.rows;
  const std::int64_t experts = dlogits.cols;
  if (dx.data != nullptr) {
    run_accumulate({dlogits.data, dlogits.dtype, dlogits.stride, 1, weight.data, weight.dtype, weight.out_stride,
                    tokens, dx.cols, experts, dx.data, dx.dtype, dx.stride},
                   kernels, threads);
  }
  if (dweight.data != nullptr) {
    run_accumulate({dlogits.data, dlogits.dtype, 1, dlogits.stride, x.data, x.dtype, x.stride, experts, x.cols, tokens,
                    dweight.data, DType::f32, dweight.stride},
                   kernels, threads);
  }
  if (dbias != nullptr) {
    // A row of ones times dlogits.
    constexpr float kOne = 1.0F;
    run_accumulate({&kOne, DType::f32, 0, 0, dlogits.data, dlogits.dtype, dlogits.stride, 1, experts, tokens, dbias,
                    DType::f32, experts},
                   kernels, threads);
  }
}

}  // namespace switchyard
