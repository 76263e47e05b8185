// Calls of `route` and `route_backward` in memory of exactly the size that they are promised, poisoned before and guarded
// on both sides; and inputs on which single and double precision choose the same.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>
#include <vector>

#include "elements.hpp"
#include "router_reference.hpp"
#include "switchyard/route.hpp"

namespace route_runs {

using namespace switchyard;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMinusNan = -kNan;

enum Output : unsigned {
  expert,
  weight,
  probability,
  byte_map,
  bit_map,
  chosen_logit,
  aux_score,
  count,
  score_sum,
  z_sum,
  valid_count,
  cutoff,
  histogram,
  kOutputs
};
constexpr unsigned bit(Output output) { return 1U << output; }
constexpr unsigned kRouting = bit(expert) | bit(weight);
constexpr unsigned kUsual = bit(cutoff) - 1;  // all but what asks for K < E, no groups and nothing forced
// All that tokens can have when they are routed side by side.
constexpr unsigned kSideBySide =
    kRouting | bit(probability) | bit(byte_map) | bit(bit_map) | bit(chosen_logit) | bit(count) | bit(valid_count);
constexpr unsigned kEverything = bit(kOutputs) - 1;
// A histogram needs a score of each expert alone.
inline unsigned everything_of(Score score) {
  const bool over_all = score == Score::softmax || score == Score::sparsemixer;
  return over_all ? kEverything & ~bit(histogram) : kEverything;
}
constexpr std::int32_t kCountedBefore = 3;  // in every bin of the histogram

// Bytes between guards.
class Guarded {
 public:
  Guarded() = default;
  Guarded(std::size_t bytes, int poison) : bytes_(bytes) {
    all_.insert(all_.end(), kGuard, std::byte{0xa5});
    all_.insert(all_.end(), bytes, static_cast<std::byte>(poison));
    all_.insert(all_.end(), kGuard, std::byte{0xa5});
  }
  std::byte* data() { return all_.data() + kGuard; }
  std::vector<std::byte> content() const {
    const auto begin = all_.begin() + static_cast<std::ptrdiff_t>(kGuard);
    return {begin, begin + static_cast<std::ptrdiff_t>(bytes_)};
  }
  bool intact() const {
    std::size_t hurt = 0;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      hurt += (i < kGuard || i >= kGuard + bytes_) && all_[i] != std::byte{0xa5} ? 1 : 0;
    }
    return hurt == 0;
  }

 private:
  static constexpr std::size_t kGuard = 128;
  std::vector<std::byte> all_;
  std::size_t bytes_ = 0;
};

// A workspace of as many bytes as asked for, with a guard behind.
class Scratch {
 public:
  Scratch(std::size_t bytes, int poison) : memory_(bytes + 2 * kWorkspaceAlignment, poison), bytes_(bytes) {
    start_ = memory_.data();
    std::size_t space = bytes + 2 * kWorkspaceAlignment;
    std::align(kWorkspaceAlignment, bytes, start_, space);
  }
  Workspace view() const { return {start_, bytes_}; }
  bool intact() const { return memory_.intact(); }

 private:
  Guarded memory_;
  std::size_t bytes_;
  void* start_ = nullptr;
};

// One call, or the forward that a backward follows.
struct Case {
  std::int64_t tokens = 0;
  std::int64_t experts = 0;
  std::vector<float> logits = {};  // [T,E]
  RouterOptions options = {};
  RouteInputs inputs = {};
  unsigned wanted = kRouting;
  DType logits_type = DType::f32;
  std::int64_t gap = 0;  // elements between two rows of logits
  DType id_type = DType::i32;
  DType weight_type = DType::f32;
  DType probability_type = DType::f32;
  std::int32_t bins = 7;
  float lower = -1.0F;
  float upper = 1.0F;
  int threads = 1;
  int poison = 0xff;

  std::int64_t sequences() const { return inputs.sequence_begin != nullptr ? inputs.sequences : 1; }
};

// Logits in memory, NaN between the rows, nothing behind the last.
inline elements::Elements placed(const Case& c) {
  std::vector<float> spread;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    const auto row = c.logits.begin() + t * c.experts;
    spread.insert(spread.end(), row, row + c.experts);
    spread.insert(spread.end(), static_cast<std::size_t>(t + 1 < c.tokens ? c.gap : 0), kNan);
  }
  return elements::of(c.logits_type, spread);
}

inline ConstMatrix view(const Case& c, const elements::Elements& logits) {
  ConstMatrix matrix(logits.bytes.data(), c.logits_type, c.tokens, c.experts);
  matrix.stride += c.gap;
  return matrix;
}

struct Results {
  std::array<std::vector<std::byte>, kOutputs> bytes;
  DType id_type = DType::i32;
  DType weight_type = DType::f32;
  DType probability_type = DType::f32;

  bool operator==(const Results&) const = default;

  template <class T>
  std::vector<T> as(Output output) const {
    std::vector<T> values(bytes[output].size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes[output].data(), bytes[output].size());
    return values;
  }
  std::vector<std::int64_t> ids() const {
    std::vector<std::int64_t> values(bytes[expert].size() / dtype_bytes(id_type));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = elements::id_at({bytes[expert].data(), id_type}, static_cast<std::int64_t>(i));
    }
    return values;
  }
  std::vector<float> floats(Output output) const {
    const DType type = output == weight ? weight_type : output == probability ? probability_type : DType::f32;
    std::vector<float> values(bytes[output].size() / dtype_bytes(type));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(elements::value_at({bytes[output].data(), type}, static_cast<std::int64_t>(i)));
    }
    return values;
  }
  std::vector<float> weights() const { return floats(weight); }
};

inline std::array<std::size_t, kOutputs> output_bytes(const Case& c) {
  const auto tokens = static_cast<std::size_t>(c.tokens);
  const auto experts = static_cast<std::size_t>(c.experts);
  const auto slots = tokens * static_cast<std::size_t>(c.options.topk);
  const auto sequences = static_cast<std::size_t>(c.sequences());
  return {slots * dtype_bytes(c.id_type),
          slots * dtype_bytes(c.weight_type),
          tokens * experts * dtype_bytes(c.probability_type),
          tokens * experts,
          tokens * ((experts + 7) / 8),
          slots * sizeof(float),
          tokens * experts * sizeof(float),
          sequences * experts * sizeof(std::int64_t),
          sequences * experts * sizeof(double),
          sequences * sizeof(double),
          sequences * sizeof(std::int64_t),
          tokens * sizeof(float),
          experts * static_cast<std::size_t>(c.bins) * sizeof(std::int32_t)};
}

inline Results run(const Case& c) {
  const elements::Elements logits = placed(c);
  const auto sizes = output_bytes(c);
  std::array<Guarded, kOutputs> memory;
  const auto wanted = [&](Output output) -> void* {
    if ((c.wanted & bit(output)) == 0) {
      return nullptr;
    }
    memory[output] = Guarded(sizes[output], c.poison);
    return memory[output].data();
  };
  RouteOutputs outputs;
  outputs.expert = {wanted(expert), c.id_type};
  outputs.weight = {wanted(weight), c.weight_type};
  outputs.probability = {wanted(probability), c.probability_type};
  outputs.byte_map = static_cast<std::uint8_t*>(wanted(byte_map));
  outputs.bit_map = static_cast<std::uint8_t*>(wanted(bit_map));
  outputs.chosen_logit = static_cast<float*>(wanted(chosen_logit));
  outputs.aux_score = static_cast<float*>(wanted(aux_score));
  outputs.count = static_cast<std::int64_t*>(wanted(count));
  outputs.score_sum = static_cast<double*>(wanted(score_sum));
  outputs.z_sum = static_cast<double*>(wanted(z_sum));
  outputs.valid_count = static_cast<std::int64_t*>(wanted(valid_count));
  outputs.cutoff = static_cast<float*>(wanted(cutoff));
  outputs.histogram = static_cast<std::int32_t*>(wanted(histogram));
  if (outputs.histogram != nullptr) {
    std::fill_n(outputs.histogram, c.experts * c.bins, kCountedBefore);
    outputs.bins = c.bins;
    outputs.qb_lower = c.lower;
    outputs.qb_upper = c.upper;
  }
  const Threads threads = Threads::pool(c.threads);
  Scratch scratch(route_workspace_bytes(c.tokens, static_cast<std::int32_t>(c.experts), c.sequences(), threads),
                  c.poison);
  route(view(c, logits), c.options, c.inputs, outputs, scratch.view(), threads);
  EXPECT_TRUE(scratch.intact());
  Results results{{}, c.id_type, c.weight_type, c.probability_type};
  for (unsigned i = 0; i < kOutputs; ++i) {
    EXPECT_TRUE(memory[i].intact()) << "output " << i;
    results.bytes[i] = memory[i].content();
  }
  return results;
}

inline Case one_token(std::vector<float> logits, const RouterOptions& options, unsigned wanted = kRouting) {
  const auto experts = static_cast<std::int64_t>(logits.size());
  return {.tokens = 1, .experts = experts, .logits = std::move(logits), .options = options, .wanted = wanted};
}

inline std::vector<std::int64_t> ids_of(const std::vector<float>& logits, const RouterOptions& options) {
  return run(one_token(logits, options)).ids();
}

inline ConstArray f32(const std::vector<float>& values) { return {values.data(), DType::f32}; }

// What a backward is given beside the case and its ids.
struct Gradients {
  std::vector<float> weight = {};       // [T,K] or empty
  std::vector<float> probability = {};  // [T,E] or empty
  std::vector<float> aux = {};          // [S,E] or empty
  float z = 0.0F;
  DType weight_type = DType::f32;
  DType probability_type = DType::f32;
  DType type = DType::f32;               // of dlogits
  std::vector<float> chosen_logit = {};  // [T,K] or empty
  bool with_logits = true;
};

// dlogits [T,E] in the type asked for.
inline elements::Elements backward(const Case& c, const std::vector<std::int64_t>& ids, const Gradients& gradients) {
  const elements::Elements logits = placed(c);
  const elements::Elements chosen = elements::of(c.id_type, ids);
  const elements::Elements by_weight = elements::of(gradients.weight_type, gradients.weight);
  const elements::Elements by_probability = elements::of(gradients.probability_type, gradients.probability);
  RouteGradients given;
  given.expert = chosen.view();
  given.weight = by_weight.bytes.empty() ? ConstArray{} : by_weight.view();
  given.probability = by_probability.bytes.empty() ? ConstArray{} : by_probability.view();
  given.chosen_logit = gradients.chosen_logit.empty() ? nullptr : gradients.chosen_logit.data();
  given.aux = gradients.aux.empty() ? nullptr : gradients.aux.data();
  given.z = gradients.z;
  ConstMatrix matrix = view(c, logits);
  matrix.data = gradients.with_logits ? matrix.data : nullptr;
  const std::int64_t stride = c.experts + c.gap;
  const auto element = static_cast<std::int64_t>(dtype_bytes(gradients.type));
  const std::int64_t bytes = c.tokens == 0 ? 0 : ((c.tokens - 1) * stride + c.experts) * element;
  Guarded out(static_cast<std::size_t>(bytes), c.poison);
  Matrix dlogits(out.data(), gradients.type, c.tokens, c.experts);
  dlogits.stride = stride;
  const Threads threads = Threads::pool(c.threads);
  Scratch scratch(route_workspace_bytes(c.tokens, static_cast<std::int32_t>(c.experts), c.sequences(), threads),
                  c.poison);
  route_backward(matrix, c.options, c.inputs, given, dlogits, scratch.view(), threads);
  EXPECT_TRUE(scratch.intact());
  EXPECT_TRUE(out.intact());
  elements::Elements dense{gradients.type, {}};
  const std::vector<std::byte> all = out.content();
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    const auto row = all.begin() + t * stride * element;
    dense.bytes.insert(dense.bytes.end(), row, row + c.experts * element);
    const std::int64_t unwritten = t + 1 < c.tokens ? c.gap * element : 0;
    for (std::int64_t i = 0; i < unwritten; ++i) {
      EXPECT_EQ(row[c.experts * element + i], static_cast<std::byte>(c.poison)) << "written between rows";
    }
  }
  return dense;
}

// ---- inputs

inline std::vector<float> random_floats(std::size_t size, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(size);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

// Which gradients come.
struct Parts {
  bool weight;
  bool probability;
  bool aux;
  bool z;
};
inline constexpr Parts kParts[] = {{true, false, false, false}, {false, true, false, false}, {true, true, false, false},
                                   {false, false, true, false}, {false, false, false, true}, {true, false, true, true},
                                   {true, true, true, true},    {false, false, false, false}};

inline Gradients random_gradients(const Case& c, const Parts& parts, unsigned seed) {
  const auto slots = static_cast<std::size_t>(c.tokens * c.options.topk);
  const auto dense = static_cast<std::size_t>(c.tokens * c.experts);
  Gradients gradients;
  if (parts.weight) gradients.weight = random_floats(slots, 1.0F, seed);
  if (parts.probability) gradients.probability = random_floats(dense, 1.0F, seed + 1);
  if (parts.aux) gradients.aux = random_floats(static_cast<std::size_t>(c.sequences() * c.experts), 1.0F, seed + 2);
  gradients.z = parts.z ? 0.125F : 0.0F;
  return gradients;
}

inline reference::Table table_of(const Case& c) {
  reference::Table table(c.tokens, c.experts);
  const std::vector<float> seen = elements::rounded(c.logits_type, c.logits);
  std::copy(seen.begin(), seen.end(), table.value.begin());
  return table;
}

// What rounding to single precision may do to the selections of a token, generously.
inline double selection_noise(const reference::Token& token, const RouterOptions& options) {
  const auto largest = [](const reference::Vector& values) {
    double most = 0;
    for (const double value : values) {
      most = std::isfinite(value) ? std::max(most, std::abs(value)) : most;
    }
    return most;
  };
  if (reference::chosen_by_logit(options)) {
    const bool as_given = options.logit_scale == 1 && options.logit_bias == nullptr && options.softcap == 0;
    return as_given ? 0 : 3e-6 * largest(token.logit);
  }
  const double noise = 4e-7 * largest(token.selection) + 3e-6 * largest(token.score);
  return noise * (1 + options.group_best / 4.0);
}

// Draws the rows again whose choice rounding could change.
template <class Draw>
void separate(Case& c, const Draw& draw) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const reference::Table table = table_of(c);
    std::int64_t close = 0;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const auto token = reference::route_token(reference::row_of(table, t), t, c.options, c.inputs);
      if (!token.valid || token.gap > selection_noise(token, c.options)) {
        continue;
      }
      ++close;
      std::generate_n(c.logits.begin() + t * c.experts, c.experts, draw);
    }
    if (close == 0) {
      return;
    }
  }
  FAIL() << "no inputs found whose choice is clear";
}

// Normal logits, or positive ones where a sum of logits divides.
inline void fill(Case& c, unsigned seed, float scale = 2.0F) {
  std::mt19937 random(seed);
  const bool positive = c.options.score == Score::logit && c.options.chosen == ChosenScore::none &&
                        c.options.normalize != Normalize::none;
  const auto draw = [&, normal = std::normal_distribution<float>(0, scale)]() mutable {
    const float value = normal(random);
    return positive ? 0.3F + std::abs(value) : value;
  };
  c.logits.resize(static_cast<std::size_t>(c.tokens * c.experts));
  std::generate(c.logits.begin(), c.logits.end(), draw);
  separate(c, draw);
}

}  // namespace route_runs
