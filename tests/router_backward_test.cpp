// The backward of the router's GEMM against double precision, finite differences and, bit for bit, plain chains of fused
// multiply-adds.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "elements.hpp"
#include "every_isa.hpp"
#include "reference.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/error.hpp"
#include "switchyard/route.hpp"
#include "tolerances.hpp"

namespace {

using namespace switchyard;

constexpr auto kPoison = std::byte{0xcd};

constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};

// Rows in memory of exactly the size that they need, `gap` elements between them.
struct Buffer {
  DType dtype;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t stride;
  std::vector<std::byte> bytes;

  Buffer(DType type, std::int64_t rows_, std::int64_t cols_, std::int64_t gap)
      : dtype(type), rows(rows_), cols(cols_), stride(cols_ + gap) {
    const std::int64_t elements = rows == 0 ? 0 : (rows - 1) * stride + cols;
    bytes.assign(static_cast<std::size_t>(elements) * dtype_bytes(dtype), kPoison);
  }
  Buffer(DType type, const reference::Table& table, std::int64_t gap) : Buffer(type, table.rows, table.cols, gap) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        put(r, c, table.at(r, c));
      }
    }
  }

  std::byte* at(std::int64_t row, std::int64_t col) {
    return bytes.data() + static_cast<std::size_t>(row * stride + col) * dtype_bytes(dtype);
  }
  void put(std::int64_t row, std::int64_t col, double value) {
    const elements::Elements one = elements::of<double>(dtype, {value});
    std::memcpy(at(row, col), one.bytes.data(), one.bytes.size());
  }
  float value(std::int64_t row, std::int64_t col) {
    return static_cast<float>(elements::value_at({at(row, col), dtype}, 0));
  }
  bool gaps_are_untouched() {
    for (std::int64_t r = 0; r + 1 < rows; ++r) {
      if (std::any_of(at(r, cols), at(r + 1, 0), [](std::byte byte) { return byte != kPoison; })) {
        return false;
      }
    }
    return true;
  }
  ConstMatrix view() const {
    ConstMatrix matrix(bytes.data(), dtype, rows, cols);
    matrix.stride = stride;
    return matrix;
  }
  Matrix out() {
    Matrix matrix(bytes.data(), dtype, rows, cols);
    matrix.stride = stride;
    return matrix;
  }
};

struct Case {
  std::int64_t tokens;
  std::int32_t experts;
  std::int64_t hidden;
  DType x_type = DType::f32;
  DType weight_type = DType::f32;
  DType dx_type = DType::f32;
  std::int64_t gap = 0;
  DType dlogits_type = DType::f32;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "tokens " << c.tokens << " experts " << c.experts << " hidden " << c.hidden << " x "
             << dtype_name(c.x_type) << " weight " << dtype_name(c.weight_type) << " dx " << dtype_name(c.dx_type)
             << " gap " << c.gap << " dlogits " << dtype_name(c.dlogits_type);
}

// Numbers that f32, bf16 and f16 hold exactly.
reference::Table coarse_table(std::int64_t rows, std::int64_t cols, std::mt19937& random) {
  reference::Table table(rows, cols);
  for (double& value : table.value) {
    value = (static_cast<double>(random() % 511) - 255.0) / 64.0;
  }
  return table;
}

struct Inputs {
  Case shape;
  reference::Table x;
  reference::Table weight;
  reference::Table dlogits;

  Inputs(const Case& c, unsigned seed) : shape(c), dlogits(c.tokens, c.experts) {
    std::mt19937 random(seed);
    x = coarse_table(c.tokens, c.hidden, random);
    weight = coarse_table(c.experts, c.hidden, random);
    std::normal_distribution<float> normal(0, 1);
    for (double& value : dlogits.value) {
      value = elements::value_at(elements::of<float>(c.dlogits_type, {normal(random)}).view(), 0);
    }
  }
};

struct Gradients {
  Buffer dx;
  Buffer dweight;
  std::vector<float> dbias;

  explicit Gradients(const Case& c)
      : dx(c.dx_type, c.tokens, c.hidden, c.gap),
        dweight(DType::f32, c.experts, c.hidden, c.gap),
        dbias(static_cast<std::size_t>(c.experts), std::numeric_limits<float>::quiet_NaN()) {}
  bool operator==(const Gradients& other) const {
    return dx.bytes == other.dx.bytes && dweight.bytes == other.dweight.bytes &&
           std::memcmp(dbias.data(), other.dbias.data(), dbias.size() * sizeof(float)) == 0;
  }
};

Gradients run(const Inputs& in, int threads) {
  const Case& c = in.shape;
  const Buffer x(c.x_type, in.x, c.gap);
  const Buffer weight(c.weight_type, in.weight, c.gap);
  const Buffer dlogits(c.dlogits_type, in.dlogits, c.gap);
  Gradients out(c);
  router_backward(x.view(), {weight.bytes.data(), c.weight_type, weight.stride, 1}, dlogits.view(), out.dx.out(),
                  out.dweight.out(), out.dbias.data(), Threads::pool(threads));
  return out;
}

struct Sum {
  float chain = 0.0F;
  double exact = 0.0;
  void add(double a, double b) {
    chain = std::fma(static_cast<float>(a), static_cast<float>(b), chain);
    exact += a * b;
  }
};

void expect_sum(const Sum& sum, float found, DType dtype, double scale, const std::string& where) {
  const auto expected = static_cast<float>(elements::value_at(elements::of<float>(dtype, {sum.chain}).view(), 0));
  ASSERT_EQ(std::bit_cast<std::uint32_t>(found), std::bit_cast<std::uint32_t>(expected)) << where;
  const double tolerance = dtype == DType::f32 ? kF32Tolerance : kBf16OutputTolerance;
  ASSERT_NEAR(found, sum.exact, tolerance * scale) << where;
}

void check(const Case& c, unsigned seed) {
  const Inputs in(c, seed);
  Gradients found = run(in, 2);
  ASSERT_TRUE(found.dx.gaps_are_untouched() && found.dweight.gaps_are_untouched());
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      Sum sum;
      for (std::int64_t e = 0; e < c.experts; ++e) {
        sum.add(in.dlogits.at(t, e), in.weight.at(e, h));
      }
      expect_sum(sum, found.dx.value(t, h), c.dx_type, 10.0 * std::sqrt(c.experts),
                 "dx " + std::to_string(t) + " " + std::to_string(h));
    }
  }
  for (std::int64_t e = 0; e < c.experts; ++e) {
    Sum bias;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      bias.add(1.0, in.dlogits.at(t, e));
    }
    expect_sum(bias, found.dbias[static_cast<std::size_t>(e)], DType::f32, 10.0 * std::sqrt(c.tokens),
               "dbias " + std::to_string(e));
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      Sum sum;
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        sum.add(in.dlogits.at(t, e), in.x.at(t, h));
      }
      expect_sum(sum, found.dweight.value(e, h), DType::f32, 10.0 * std::sqrt(c.tokens),
                 "dweight " + std::to_string(e) + " " + std::to_string(h));
    }
  }
}

TEST(RouterBackward, IsTheChainOfFusedMultiplyAddsForEverySize) {
  unsigned seed = 0;
  for (const std::int64_t tokens : {0, 1, 17, 96}) {
    for (const std::int32_t experts : {1, 5, 16, 64}) {
      for (const std::int64_t hidden : {1, 8, 33, 128}) {
        const Case c{.tokens = tokens, .experts = experts, .hidden = hidden};
        ASSERT_NO_FATAL_FAILURE(check(c, ++seed)) << c;
      }
    }
  }
  // Several pieces of rows and columns, several blocks of the depth, both with a rest.
  const Case large{.tokens = 150, .experts = 131, .hidden = 300};
  ASSERT_NO_FATAL_FAILURE(check(large, ++seed)) << large;
}

TEST(RouterBackward, TakesEveryTypeAndAnyStride) {
  unsigned seed = 100;
  for (const DType dlogits_type : kFloats) {
    for (const DType x_type : kFloats) {
      for (const DType weight_type : kFloats) {
        for (const DType dx_type : kFloats) {
          for (const std::int64_t gap : {0, 3, 64}) {
            const Case c{17, 5, 33, x_type, weight_type, dx_type, gap, dlogits_type};
            ASSERT_NO_FATAL_FAILURE(check(c, ++seed)) << c;
          }
        }
      }
    }
    // Several pieces of rows and columns, several blocks of the depth, all with a rest.
    const Case large{150, 131, 300, DType::f16, DType::bf16, DType::f16, 1, dlogits_type};
    ASSERT_NO_FATAL_FAILURE(check(large, ++seed)) << large;
  }
}

// What the gradients are of: the loss Σ dlogits · (x · weightᵀ + bias).
double loss(const Inputs& in, const reference::Vector& bias) {
  double sum = 0;
  for (std::int64_t t = 0; t < in.shape.tokens; ++t) {
    for (std::int32_t e = 0; e < in.shape.experts; ++e) {
      double logit = bias[static_cast<std::size_t>(e)];
      for (std::int64_t h = 0; h < in.shape.hidden; ++h) {
        logit += in.x.at(t, h) * in.weight.at(e, h);
      }
      sum += in.dlogits.at(t, e) * logit;
    }
  }
  return sum;
}

// By central differences; the loss is linear in each number, so any step will do.
template <class Loss>
double slope(double& number, Loss&& at) {
  const double before = number;
  number = before + 0.5;
  const double above = at();
  number = before - 0.5;
  const double below = at();
  number = before;
  return above - below;
}

void check_slopes(const Case& c, unsigned seed) {
  Inputs in(c, seed);
  reference::Vector bias(static_cast<std::size_t>(c.experts));
  Gradients found = run(in, 2);
  const auto at = [&] { return loss(in, bias); };
  const double dx_tolerance = c.dx_type == DType::f32 ? kF32Tolerance : kBf16OutputTolerance;
  for (std::int64_t h = 0; h < c.hidden; ++h) {
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const double expected = slope(in.x.at(t, h), at);
      ASSERT_NEAR(found.dx.value(t, h), expected, dx_tolerance * std::max(1.0, std::abs(expected))) << t << " " << h;
    }
    for (std::int32_t e = 0; e < c.experts; ++e) {
      ASSERT_NEAR(found.dweight.value(e, h), slope(in.weight.at(e, h), at), kF32Tolerance * 10) << e << " " << h;
    }
  }
  for (std::size_t e = 0; e < bias.size(); ++e) {
    ASSERT_NEAR(found.dbias[e], slope(bias[e], at), kF32Tolerance * 10) << e;
  }
}

TEST(RouterBackward, IsTheSlopeOfTheLossForEveryType) {
  unsigned seed = 500;
  for (const DType dlogits_type : kFloats) {
    for (const DType x_type : kFloats) {
      for (const DType weight_type : kFloats) {
        for (const DType dx_type : kFloats) {
          const Case c{7, 5, 9, x_type, weight_type, dx_type, 2, dlogits_type};
          ASSERT_NO_FATAL_FAILURE(check_slopes(c, ++seed)) << c;
        }
      }
    }
  }
}

// The smallest numbers of 16 bits are denormal there, in bf16 also as f32.
TEST(RouterBackward, WidensTheSmallestNumbersExactly) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const std::vector<std::uint16_t> smallest(17, 1);
    const float value = dtype == DType::bf16 ? 0x1p-133F : 0x1p-24F;
    const std::vector<float> ones(33 * 17, 1.0F);
    std::vector<float> dx(33);
    std::vector<float> dweight(17 * 33);
    std::vector<float> dbias(17);
    const ConstMatrix x(ones.data(), 1, 33);
    router_backward(x, {ones.data(), DType::f32, 33, 1}, {smallest.data(), dtype, 1, 17}, {dx.data(), 1, 33},
                    {dweight.data(), 17, 33}, dbias.data());
    EXPECT_EQ(dx, std::vector<float>(33, 17 * value)) << dtype_name(dtype);
    EXPECT_EQ(dweight, std::vector<float>(17 * 33, value)) << dtype_name(dtype);
    EXPECT_EQ(dbias, std::vector<float>(17, value)) << dtype_name(dtype);
  }
}

TEST(RouterBackward, WhatF16CannotHoldIsInfinite) {
  Inputs in({2, 5, 33, DType::f32, DType::f32, DType::f16, 0, DType::bf16}, 12);
  std::fill(in.weight.value.begin(), in.weight.value.end(), 16384.0);
  std::fill(in.dlogits.value.begin(), in.dlogits.value.end(), 1.0);
  in.dlogits.at(1, 0) = in.dlogits.at(1, 1) = 0;
  Gradients found = run(in, 1);
  EXPECT_EQ(found.dx.value(0, 32), std::numeric_limits<float>::infinity());
  EXPECT_EQ(found.dx.value(1, 32), 49152.0F);
}

TEST(RouterBackward, ThreadsAndInstructionSetsGiveTheSameBits) {
  for (const DType dtype : kFloats) {
    const Inputs in({150, 131, 300, DType::bf16, DType::f16, dtype, 1, dtype}, 7);
    const Gradients first = run(in, 1);
    on_every_isa([&](Isa isa) {
      for (int threads = 1; threads <= 4; ++threads) {
        EXPECT_TRUE(run(in, threads) == first) << isa_name(isa) << " threads " << threads;
      }
    });
  }
}

// −0 comes of a product too small to hold; the depths are no multiples of a block.
TEST(RouterBackward, KeepsTheSignOfAVanishedSum) {
  Inputs in({3, 5, 33}, 8);
  std::fill(in.dlogits.value.begin(), in.dlogits.value.end(), -1e-30);
  std::fill(in.weight.value.begin(), in.weight.value.end(), 1e-30);
  std::fill(in.x.value.begin(), in.x.value.end(), 1e-30);
  Gradients found = run(in, 1);
  EXPECT_TRUE(found.dx.value(2, 32) == 0 && std::signbit(found.dx.value(2, 32)));
  EXPECT_TRUE(found.dweight.value(4, 32) == 0 && std::signbit(found.dweight.value(4, 32)));
}

TEST(RouterBackward, NanAndInfinityStayInTheirTokenAndExpert) {
  Inputs in({17, 5, 33}, 9);
  in.dlogits.at(3, 2) = std::numeric_limits<double>::quiet_NaN();
  in.dlogits.at(9, 4) = std::numeric_limits<double>::infinity();
  Gradients found = run(in, 2);
  for (std::int64_t h = 0; h < 33; ++h) {
    for (std::int64_t t = 0; t < 17; ++t) {
      EXPECT_EQ(std::isfinite(found.dx.value(t, h)), t != 3 && t != 9) << t << " " << h;
    }
    for (std::int64_t e = 0; e < 5; ++e) {
      EXPECT_EQ(std::isfinite(found.dweight.value(e, h)), e != 2 && e != 4) << e << " " << h;
    }
  }
  for (std::size_t e = 0; e < 5; ++e) {
    EXPECT_EQ(std::isfinite(found.dbias[e]), e != 2 && e != 4) << e;
  }
}

TEST(RouterBackward, GivesEachGradientAlone) {
  const Inputs in({17, 5, 33}, 10);
  const Gradients all = run(in, 1);
  const Buffer x(DType::f32, in.x, 0);
  const Buffer weight(DType::f32, in.weight, 0);
  const Buffer dlogits(DType::f32, in.dlogits, 0);
  Gradients each(in.shape);
  const WeightView view{weight.bytes.data(), DType::f32, 33, 1};
  router_backward({}, view, dlogits.view(), each.dx.out(), {}, nullptr);
  router_backward(x.view(), {}, dlogits.view(), {}, each.dweight.out(), nullptr);
  router_backward({}, {}, dlogits.view(), {}, {}, each.dbias.data());
  EXPECT_TRUE(each == all);
  router_backward({}, {}, dlogits.view(), {}, {}, nullptr);
}

// What a call throws, and that it wrote nothing.
class RouterBackwardErrors : public testing::Test {
 protected:
  RouterBackwardErrors()
      : in_({4, 5, 6}, 11),
        x_(DType::f32, in_.x, 0),
        weight_(DType::f32, in_.weight, 0),
        dlogits_(DType::f32, in_.dlogits, 0),
        out_(in_.shape) {
    x = x_.view();
    weight = {weight_.bytes.data(), DType::f32, 6, 1};
    dlogits = dlogits_.view();
    dx = out_.dx.out();
    dweight = out_.dweight.out();
  }

  void expect(Code code, const std::string& message) {
    try {
      router_backward(x, weight, dlogits, dx, dweight, out_.dbias.data());
      FAIL() << "expected: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_EQ(error.what(), message);
    }
    EXPECT_TRUE(out_ == Gradients(in_.shape));
  }

 private:
  Inputs in_;
  Buffer x_;
  Buffer weight_;
  Buffer dlogits_;
  Gradients out_;

 protected:
  ConstMatrix x;
  WeightView weight;
  ConstMatrix dlogits;
  Matrix dx;
  Matrix dweight;
};

TEST_F(RouterBackwardErrors, WrongDlogits) {
  dlogits.dtype = DType::f64;
  expect(Code::invalid_argument,
         "router backward: found dlogits [4, 5] f64 with stride 5, expected f32, bf16 or f16, 0..1099511627776 tokens, "
         "1..65536 experts and a stride of at least the experts");
  dlogits.dtype = DType::f32;
  dlogits.stride = 4;
  expect(Code::invalid_argument,
         "router backward: found dlogits [4, 5] f32 with stride 4, expected f32, bf16 or f16, 0..1099511627776 tokens, "
         "1..65536 experts and a stride of at least the experts");
  dlogits.stride = 5;
  dlogits.data = nullptr;
  expect(Code::invalid_argument, "router backward: dlogits has no data, expected memory for 4 tokens");
}

TEST_F(RouterBackwardErrors, WrongDx) {
  dx.dtype = DType::i16;
  expect(Code::invalid_argument,
         "router backward: found dx [4, 6] i16 with stride 6, expected 4 tokens, f32, bf16 or f16 and a stride of at "
         "least the hidden size");
  dx.dtype = DType::f32;
  dx.rows = 3;
  expect(Code::invalid_argument,
         "router backward: found dx [3, 6] f32 with stride 6, expected 4 tokens, f32, bf16 or f16 and a stride of at "
         "least the hidden size");
  dx.rows = 4;
  dx.cols = 5;
  expect(Code::invalid_argument, "router backward: found a hidden size of 5 in dx, expected 6 as in x");
}

TEST_F(RouterBackwardErrors, WrongWeight) {
  weight.in_stride = 2;
  expect(Code::not_supported, "router backward: found a weight with in_stride 2, expected 1");
  weight.in_stride = 1;
  weight.codes = Codes::i8;
  expect(Code::not_supported, "router backward: found a weight of i8 codes, expected plain numbers");
  weight.codes = Codes::plain;
  weight.dtype = DType::i8;
  expect(Code::invalid_argument, "router backward: found a weight with data in i8, expected data in f32, bf16 or f16");
  weight = {nullptr, DType::f32, 6, 1};
  expect(Code::invalid_argument,
         "router backward: found a weight without data in f32, expected data in f32, bf16 or f16");
}

TEST_F(RouterBackwardErrors, OffsetsAndMemory) {
  weight.out_stride = 5;
  expect(Code::invalid_argument, "router backward: found a weight with out_stride 5, expected at least 6 as dx has");
  weight.out_stride = std::int64_t{1} << 58;
  expect(Code::invalid_argument,
         "router backward: the weight has 5 rows with stride 288230376151711744, expected at most 2^60 elements");
  weight.out_stride = 6;
  const auto far = [&](auto& matrix, const char* name, int rows) {
    const std::int64_t stride = matrix.stride;
    matrix.stride = std::int64_t{1} << 59;
    expect(Code::invalid_argument, std::string("router backward: ") + name + " has " + std::to_string(rows) +
                                       " rows with stride 576460752303423488, expected at most 2^60 elements");
    matrix.stride = stride;
  };
  far(dlogits, "dlogits", 4);
  far(dx, "dx", 4);
  far(x, "x", 4);
  far(dweight, "dweight", 5);
  const auto shared = [&](auto& one, const void* data, const char* names) {
    const auto own = one.data;
    one.data = data;
    expect(Code::invalid_argument, std::string("router backward: ") + names + " overlap, expected separate memory");
    one.data = own;
  };
  shared(x, dweight.data, "dweight and x");
  shared(x, dx.data, "dx and x");
  shared(dlogits, dx.data, "dx and dlogits");
  shared(weight, dweight.data, "dweight and weight");
}

TEST_F(RouterBackwardErrors, WrongXAndDweight) {
  x.dtype = DType::u8;
  expect(Code::invalid_argument,
         "router backward: found x [4, 6] u8 with stride 6, expected 4 tokens, f32, bf16 or f16 and a stride of at "
         "least the hidden size");
  x.dtype = DType::f32;
  x.data = nullptr;
  expect(Code::invalid_argument, "router backward: x has no data, expected memory for 4 tokens");
  x.data = dlogits.data;
  dweight.dtype = DType::bf16;
  expect(Code::invalid_argument,
         "router backward: found dweight [5, 6] bf16 with stride 6, expected [5, 6] f32 and a stride of at least the "
         "hidden size");
  dweight.dtype = DType::f32;
  dweight.rows = 4;
  expect(Code::invalid_argument,
         "router backward: found dweight [4, 6] f32 with stride 6, expected [5, 6] f32 and a stride of at least the "
         "hidden size");
}

}  // namespace
