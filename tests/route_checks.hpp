// What `route` gave against the oracle, output by output.
#pragma once

#include <map>
#include <string>

#include "route_runs.hpp"
#include "tolerances.hpp"

namespace route_runs {

// Of a value rounded to `type`.
inline double rounding(DType type, double value) {
  const double size = std::abs(value);
  return type == DType::bf16 ? size * 0x1.01p-8 : type == DType::f16 ? size * 0x1.01p-11 + 0x1p-25 : 0.0;
}

inline double weight_tolerance(const reference::Token& token, std::size_t slot, const RouterOptions& options) {
  const double factor = std::abs(reference::factor(token.slots[slot], options));
  return kWeightTolerance * token.condition * std::max({1.0, factor, std::abs(token.weight[slot])});
}

struct Slot {
  std::int64_t expert;
  double weight;
  double tolerance;
};

inline std::vector<Slot> expected_slots(const reference::Token& token, const RouterOptions& options) {
  std::vector<Slot> slots;
  for (std::size_t s = 0; s < static_cast<std::size_t>(options.topk); ++s) {
    slots.push_back(token.valid ? Slot{static_cast<std::int64_t>(token.slots[s]), token.weight[s],
                                       weight_tolerance(token, s, options)}
                                : Slot{-1, 0, 0});
  }
  if (token.live && options.order == Order::any) {
    std::stable_sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.expert < b.expert; });
  }
  return slots;
}

// Slots of Order::any are compared as a set.
inline void check_slots(const Case& c, const Results& found, const std::vector<reference::Token>& tokens) {
  const auto topk = static_cast<std::size_t>(c.options.topk);
  const std::vector<std::int64_t> ids = found.ids();
  const std::vector<float> weights = found.weights();
  const std::vector<float> logits = found.floats(chosen_logit);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    std::vector<std::size_t> at(topk);
    std::iota(at.begin(), at.end(), t * topk);
    if (tokens[t].live && c.options.order == Order::any) {
      std::stable_sort(at.begin(), at.end(), [&](auto a, auto b) { return ids[a] < ids[b]; });
    }
    const std::vector<Slot> slots = expected_slots(tokens[t], c.options);
    for (std::size_t s = 0; s < topk; ++s) {
      ASSERT_EQ(ids[at[s]], slots[s].expert) << "token " << t << " slot " << s;
      if (!weights.empty()) {
        ASSERT_NEAR(weights[at[s]], slots[s].weight, slots[s].tolerance + rounding(c.weight_type, slots[s].weight))
            << "token " << t << " slot " << s << " expert " << slots[s].expert;
      }
      if (!logits.empty() && tokens[t].valid) {
        const double l = tokens[t].logit[static_cast<std::size_t>(slots[s].expert)];
        if (std::isinf(l)) {
          ASSERT_EQ(logits[at[s]], l) << "token " << t << " slot " << s;
        } else {
          ASSERT_NEAR(logits[at[s]], l, kWeightTolerance * std::max(1.0, std::abs(l)))
              << "token " << t << " slot " << s;
        }
      }
    }
  }
}

// The maps and the probabilities, which know no order.
inline void check_dense(const Case& c, const Results& found, const std::vector<reference::Token>& tokens) {
  const std::vector<float> probabilities = found.floats(probability);
  const std::vector<float> aux = found.floats(aux_score);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    std::map<std::int64_t, Slot> chosen;  // a replayed duplicate adds up
    for (const Slot& slot : expected_slots(tokens[t], c.options)) {
      Slot& sum = chosen.try_emplace(slot.expert, Slot{slot.expert, 0, 0}).first->second;
      sum.weight += slot.weight;
      sum.tolerance += slot.tolerance;
    }
    for (std::size_t e = 0; e < static_cast<std::size_t>(c.experts); ++e) {
      const std::size_t i = t * static_cast<std::size_t>(c.experts) + e;
      const auto slot = chosen.find(static_cast<std::int64_t>(e));
      const bool routed = slot != chosen.end();
      if (!found.bytes[byte_map].empty()) {
        ASSERT_EQ(found.bytes[byte_map][i], std::byte{routed}) << "token " << t << " expert " << e;
      }
      if (!found.bytes[bit_map].empty()) {
        const std::size_t row = t * ((static_cast<std::size_t>(c.experts) + 7) / 8);
        ASSERT_EQ(static_cast<int>(found.bytes[bit_map][row + e / 8]) >> e % 8 & 1, routed ? 1 : 0)
            << "token " << t << " expert " << e;
      }
      if (!probabilities.empty()) {
        const Slot expected = routed ? slot->second : Slot{0, 0, 0};
        ASSERT_NEAR(probabilities[i], expected.weight,
                    expected.tolerance + rounding(c.probability_type, expected.weight))
            << "token " << t << " expert " << e;
      }
      if (!aux.empty()) {
        ASSERT_NEAR(aux[i], tokens[t].valid ? tokens[t].aux[e] : 0.0, kWeightTolerance)
            << "token " << t << " expert " << e;
      }
    }
  }
}

// Bits behind the last expert are zero.
inline void check_map_ends(const Case& c, const Results& found) {
  const auto row = static_cast<std::size_t>((c.experts + 7) / 8);
  for (std::size_t end = row; end <= found.bytes[bit_map].size() && c.experts % 8 != 0; end += row) {
    ASSERT_EQ(static_cast<int>(found.bytes[bit_map][end - 1]) >> c.experts % 8, 0) << "row " << end / row - 1;
  }
}

inline void check_sums(const Case& c, const Results& found, const std::vector<reference::Token>& tokens) {
  const auto experts = static_cast<std::size_t>(c.experts);
  const std::int64_t whole[] = {0, c.tokens};
  const std::int64_t* begin = c.inputs.sequence_begin != nullptr ? c.inputs.sequence_begin : whole;
  const auto counts = found.as<std::int64_t>(count);
  const auto sums = found.as<double>(score_sum);
  const auto z = found.as<double>(z_sum);
  const auto valid = found.as<std::int64_t>(valid_count);
  for (std::size_t s = 0; s < static_cast<std::size_t>(c.sequences()); ++s) {
    std::vector<std::int64_t> slots(experts);
    reference::Vector scores(experts);
    double z_expected = 0;
    std::int64_t tokens_expected = 0;
    for (auto t = static_cast<std::size_t>(begin[s]); t < static_cast<std::size_t>(begin[s + 1]); ++t) {
      if (!tokens[t].valid) continue;
      for (const std::size_t e : tokens[t].slots) ++slots[e];
      reference::add_to(scores, tokens[t].aux);
      z_expected += tokens[t].z;
      ++tokens_expected;
    }
    for (std::size_t e = 0; e < experts; ++e) {
      const std::size_t i = s * experts + e;
      ASSERT_EQ(counts.empty() ? slots[e] : counts[i], slots[e]) << "sequence " << s << " expert " << e;
      if (!sums.empty()) {
        ASSERT_NEAR(sums[i], scores[e], kWeightTolerance * (1 + scores[e]));
      }
    }
    if (!z.empty()) {
      ASSERT_NEAR(z[s], z_expected, 1e-5 * (1 + z_expected)) << "sequence " << s;
    }
    ASSERT_EQ(valid.empty() ? tokens_expected : valid[s], tokens_expected) << "sequence " << s;
  }
}

// Where rounding could move a score into the neighbouring bin, either is right.
inline void check_quantiles(const Case& c, const Results& found, const std::vector<reference::Token>& tokens) {
  const std::vector<float> cutoffs = found.floats(cutoff);
  const auto bins = found.as<std::int32_t>(histogram);
  std::vector<std::int32_t> least(bins.size(), kCountedBefore);
  std::vector<std::int32_t> most(bins.size(), kCountedBefore);
  const double per_bin = c.bins / (static_cast<double>(c.upper) - static_cast<double>(c.lower));
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (cutoffs.empty() && bins.empty()) return;
    const double cut = reference::cutoff(tokens[t], c.options);
    if (!cutoffs.empty() && !tokens[t].valid) {
      ASSERT_EQ(cutoffs[t], -kInf);
    } else if (!cutoffs.empty()) {
      ASSERT_NEAR(cutoffs[t], cut, kWeightTolerance * std::max(1.0, std::abs(cut)));
    }
    for (std::size_t e = 0; e < tokens[t].score.size() && !bins.empty(); ++e) {
      if (tokens[t].nan[e]) continue;
      const double at = (cut - tokens[t].score[e] - static_cast<double>(c.lower)) * per_bin;
      const auto bin = [&](double position) {
        return e * static_cast<std::size_t>(c.bins) +
               static_cast<std::size_t>(std::clamp(std::floor(position), 0.0, c.bins - 1.0));
      };
      const std::size_t low = bin(at - 1e-3);
      const std::size_t high = bin(at + 1e-3);
      least[low] += low == high ? 1 : 0;
      for (std::size_t i = low; i <= high; ++i) ++most[i];
    }
  }
  for (std::size_t i = 0; i < bins.size(); ++i) {
    ASSERT_GE(bins[i], least[i]) << "bin " << i;
    ASSERT_LE(bins[i], most[i]) << "bin " << i;
  }
}

// All outputs that the case asks for.
inline void expect_matches(const Case& c) {
  const Results found = run(c);
  const auto tokens = reference::route_tokens(table_of(c), c.options, c.inputs);
  check_slots(c, found, tokens);
  check_dense(c, found, tokens);
  check_map_ends(c, found);
  check_sums(c, found, tokens);
  check_quantiles(c, found, tokens);
}

}  // namespace route_runs
