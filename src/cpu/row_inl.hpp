// Rows of logits and slots: reading, writing, softmax; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Blocks of a row in scratch: padded with −inf, no NaN, but for logits on their way to what experts are chosen by.
struct Row {
  float* value;
  std::int32_t size;
  std::int32_t padded;
};

// A row that is read: of scratch, or of the caller's logits.
struct ConstRow {
  const float* value;
  std::int32_t size;
  std::int32_t padded;

  ConstRow(const float* value_, std::int32_t size_) : value(value_), size(size_), padded(round_to_lanes(size_)) {}
  ConstRow(const Row& row) : ConstRow(row.value, row.size) {}
};

inline Row scratch_row(float* scratch, std::int32_t index, std::int32_t experts) {
  const std::int32_t padded = round_to_lanes(experts);
  return {scratch + static_cast<std::int64_t>(index) * padded, experts, padded};
}

// The logit as it is routed by: scale, bias, cap.
inline V16 transformed(const RouterOptions& options, V16 logit, std::int64_t at, std::int64_t count) {
  if (options.logit_scale != 1.0F) {
    logit = V16::mul(logit, V16::set(options.logit_scale));
  }
  if (options.logit_bias != nullptr) {
    logit = V16::add(logit, load_some(options.logit_bias, DType::f32, at, count));
  }
  if (options.round_logits) {
    logit = V16::round_to_bf16(logit);
  }
  if (options.softcap != 0.0F) {
    const V16 cap = V16::set(options.softcap);
    logit = V16::mul(cap, tanh(V16::div(logit, cap)));
  }
  return logit;
}

inline bool is_transformed(const RouterOptions& options) {
  return options.logit_scale != 1.0F || options.logit_bias != nullptr || options.round_logits ||
         options.softcap != 0.0F;
}

inline V16 without_nan(V16 value) { return V16::max(value, V16::set(-__builtin_inff())); }

// One token's logits → a row, and the largest of those whose number is 0, 1, … modulo kLanes. with_nan: the same as it
// was before its NaN became −inf; or null.
template <DType kType, bool kTransform>
inline V16 load_row_as(const RouterOptions& options, const void* logits, const Row& row, float* with_nan) {
  V16 largest = V16::set(-__builtin_inff());
  const auto block = [&](std::int32_t at, V16 value, std::int64_t left) {
    if (kTransform) {
      value = transformed(options, value, at, left);
    }
    if (with_nan != nullptr) {
      V16::store(with_nan + at, value);
    }
    value = without_nan(value);
    V16::store(row.value + at, value);
    return value;
  };
  std::int32_t at = 0;
  for (; at + kLanes <= row.size; at += kLanes) {
    largest = V16::max(largest, block(at, load_elements(logits, kType, at), kLanes));
  }
  if (at < row.size) {
    block(at, load_some(logits, kType, at, row.size - at), row.size - at);
    for (std::int32_t i = row.size; i < row.padded; ++i) {
      row.value[i] = -__builtin_inff();
    }
    largest = V16::max(largest, V16::load(row.value + at));
  }
  return largest;
}

inline V16 load_row(const RouterOptions& options, const void* logits, DType dtype, const Row& row,
                    float* with_nan = nullptr) {
  if (is_transformed(options)) {
    switch (dtype) {
      case DType::f32:
        return load_row_as<DType::f32, true>(options, logits, row, with_nan);
      case DType::bf16:
        return load_row_as<DType::bf16, true>(options, logits, row, with_nan);
      default:
        return load_row_as<DType::f16, true>(options, logits, row, with_nan);
    }
  }
  switch (dtype) {
    case DType::f32:
      return load_row_as<DType::f32, false>(options, logits, row, with_nan);
    case DType::bf16:
      return load_row_as<DType::bf16, false>(options, logits, row, with_nan);
    default:
      return load_row_as<DType::f16, false>(options, logits, row, with_nan);
  }
}

// exp(l − largest); logits equal to the largest count as a difference of 0 even when they are infinite.
inline V16 softmax_term(V16 logit, V16 largest) {
  return exp_nonpositive(V16::choose_equal(logit, largest, V16::set(0.0F), V16::sub(logit, largest)));
}

inline bool is_finite(float value) { return value - value == 0.0F; }

// total + exp(l − largest), with a finite largest: what lies below kLowestExp, padding included, adds up to less than
// rounding shows beside the 1 of the largest.
inline V16 add_bounded_term(V16 total, V16 logit, V16 largest) {
  return add_exp_negative_bounded(total, V16::sub(largest, logit));  // a load is the second operand of a subtraction
}

// Σ exp(l − largest) over a row.
inline float softmax_total(const ConstRow& row, float largest) {
  const V16 top = V16::set(largest);
  V16 total = V16::set(0.0F);
  if (is_finite(largest)) {
    for (std::int32_t at = 0; at < row.padded; at += kLanes) {
      total = add_bounded_term(total, V16::load(row.value + at), top);
    }
    return V16::sum(total);
  }
  for (std::int32_t at = 0; at < row.padded; at += kLanes) {
    const V16 term = softmax_term(V16::load(row.value + at), top);
    total = V16::add(total, V16::keep_first(term, row.size - at));
  }
  return V16::sum(total);
}

// What a softmax over all experts needs of a row.
struct Softmax {
  float largest;
  float total;
};

inline V16 probability_of(V16 logit, const Softmax& softmax) {
  return V16::div(softmax_term(logit, V16::set(softmax.largest)), V16::set(softmax.total));
}

// Σ over `count` lanes of an array padded to whole blocks.
inline float sum_of(const float* value, std::int32_t count) {
  V16 sum = V16::set(0.0F);
  for (std::int32_t at = 0; at < count; at += kLanes) {
    sum = V16::add(sum, V16::keep_first(V16::load(value + at), count - at));
  }
  return V16::sum(sum);
}

template <class Function>
inline void for_blocks(std::int32_t count, const Function& function) {
  for (std::int32_t at = 0; at < count; at += kLanes) {
    function(at);
  }
}

}  // namespace
}  // namespace switchyard
