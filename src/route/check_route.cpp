#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "fail.hpp"
#include "route/router.hpp"

namespace switchyard {
namespace {

template <class Value>
void check_enum(const char* name, Value value, Value last) {
  if (value < Value{} || value > last) {
    fail(Code::invalid_argument, "route: found {} {}, expected 0..{}", name, static_cast<int>(value),
         static_cast<int>(last));
  }
}

void check_type(const char* name, const void* data, DType dtype, std::initializer_list<DType> known,
                const char* expected) {
  if (data != nullptr && std::find(known.begin(), known.end(), dtype) == known.end()) {
    fail(Code::invalid_argument, "route: {} is {}, expected {}", name, dtype_name(dtype), expected);
  }
}

void check_floats(const char* name, const void* data, DType dtype) {
  check_type(name, data, dtype, {DType::f32, DType::bf16, DType::f16}, "f32, bf16 or f16");
}

void check_ids(const char* name, const void* data, DType dtype) {
  check_type(name, data, dtype, {DType::i16, DType::i32, DType::i64}, "i16, i32 or i64");
}

void check_groups(const RouterOptions& options, std::int32_t experts) {
  if (options.groups == 0 || (options.groups == 1 && (options.kept_groups == 0 || options.kept_groups == 1))) {
    return;
  }
  if (options.groups < 1 || options.groups > kMaxGroups || experts % options.groups != 0) {
    fail(Code::invalid_argument, "route: found {} groups for {} experts, expected 0..{} of equal size", options.groups,
         experts, kMaxGroups);
  }
  const std::int32_t size = experts / options.groups;
  if (options.kept_groups < 1 || options.kept_groups > options.groups || options.kept_groups * size < options.topk) {
    fail(Code::invalid_argument,
         "route: found {} kept groups of {} experts for topk {}, expected 1..{} with enough experts",
         options.kept_groups, size, options.topk, options.groups);
  }
  if (options.group_best < 1 || options.group_best > std::min(size, kMaxTopk)) {
    fail(Code::invalid_argument, "route: found group_best {}, expected 1..{}", options.group_best,
         std::min(size, kMaxTopk));
  }
}

void check_numbers(const RouterOptions& options) {
  if (!(options.epsilon >= 0) || !std::isfinite(options.epsilon) || !std::isfinite(options.scale)) {
    fail(Code::invalid_argument, "route: found epsilon {} and scale {}, expected finite numbers and epsilon >= 0",
         options.epsilon, options.scale);
  }
  if (!(options.softcap >= 0) || !std::isfinite(options.softcap) || !std::isfinite(options.logit_scale)) {
    fail(Code::invalid_argument, "route: found softcap {} and logit_scale {}, expected finite numbers and softcap >= 0",
         options.softcap, options.logit_scale);
  }
  if (options.normalize == Normalize::power_norm && (!(options.power > 0) || !std::isfinite(options.power))) {
    fail(Code::invalid_argument, "route: found power {}, expected a finite number above 0", options.power);
  }
}

void check_rules(const RouterOptions& options) {
  if (options.chosen != ChosenScore::none && options.score != Score::logit) {
    fail(Code::invalid_argument, "route: found score {} with a function of the chosen, expected score logit",
         score_name(options.score));
  }
  if (options.score != Score::sparsemixer) {
    return;
  }
  if (options.topk != 2 || options.normalize != Normalize::none || options.groups > 1 ||
      options.selection_bias.data != nullptr) {
    fail(Code::invalid_argument,
         "route: found sparsemixer with topk {}, {} groups, normalize {}{}, expected topk 2 and none of the others",
         options.topk, options.groups, static_cast<int>(options.normalize),
         options.selection_bias.data != nullptr ? " and a selection bias" : "");
  }
  if (!(options.jitter >= 0) || !std::isfinite(options.jitter)) {
    fail(Code::invalid_argument, "route: found jitter {}, expected a finite number >= 0", options.jitter);
  }
}

void check_id_row(const char* name, const ConstArray& ids, std::int64_t row, std::int32_t topk, std::int32_t lowest,
                  std::int32_t experts) {
  for (std::int64_t slot = row * topk; slot < (row + 1) * topk; ++slot) {
    const std::int64_t id = read_id(ids, slot);
    if (id < lowest || id >= experts) {
      fail(Code::invalid_argument, "route: {} row {} slot {} names expert {}, expected {}..{}", name, row,
           slot - row * topk, id, lowest, experts - 1);
    }
  }
}

bool is_valid(const RouteInputs& inputs, std::int64_t t) { return inputs.valid == nullptr || inputs.valid[t] != 0; }

void check_table(const RouterOptions& options, const RouteInputs& inputs, std::int64_t tokens, std::int32_t experts) {
  if (tokens > 0 && inputs.token_id.data == nullptr) {
    fail(Code::invalid_argument, "route: found a table and no token_id, expected the ids of {} tokens", tokens);
  }
  check_type("token_id", inputs.token_id.data, inputs.token_id.dtype, {DType::i32, DType::i64}, "i32 or i64");
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (is_valid(inputs, t)) {
      const std::int64_t row = read_id(inputs.token_id, t);
      if (row < 0 || row >= options.table_rows) {
        fail(Code::invalid_argument, "route: token {} has the id {}, expected 0..{} as the table's rows", t, row,
             options.table_rows - 1);
      }
      check_id_row("table", options.table, row, options.topk, 0, experts);
    }
  }
}

}  // namespace

std::int64_t read_id(const ConstArray& ids, std::int64_t at) {
  switch (ids.dtype) {
    case DType::i16:
      return static_cast<const std::int16_t*>(ids.data)[at];
    case DType::i32:
      return static_cast<const std::int32_t*>(ids.data)[at];
    default:
      return static_cast<const std::int64_t*>(ids.data)[at];
  }
}

void check_sequences(const RouteInputs& inputs, std::int64_t tokens) {
  if (inputs.sequence_begin == nullptr) {
    return;
  }
  const std::int64_t* begin = inputs.sequence_begin;
  if (inputs.sequences < 1 || inputs.sequences > kMaxTokens) {
    fail(Code::invalid_argument, "route: found {} sequences, expected 1..{}", inputs.sequences, kMaxTokens);
  }
  for (std::int64_t s = 0; s < inputs.sequences; ++s) {
    if (begin[s] > begin[s + 1]) {
      fail(Code::invalid_argument, "route: sequence {} is from {} to {}, expected ascending borders", s, begin[s],
           begin[s + 1]);
    }
  }
  if (begin[0] != 0 || begin[inputs.sequences] != tokens) {
    fail(Code::invalid_argument, "route: the sequences are from {} to {}, expected 0 to {} tokens", begin[0],
         begin[inputs.sequences], tokens);
  }
}

void check_table_ids(const RouterOptions& options, std::int32_t experts) {
  for (std::int64_t row = 0; row < options.table_rows; ++row) {
    check_id_row("table", options.table, row, options.topk, 0, experts);
  }
}

void check_router_options(const RouterOptions& options, std::int32_t experts) {
  if (experts < 1 || experts > kMaxExperts) {
    fail(Code::invalid_argument, "route: found {} experts, expected 1..{}", experts, kMaxExperts);
  }
  const std::int32_t most = std::min(experts, kMaxTopk);
  if (options.topk < 1 || options.topk > most) {
    fail(Code::invalid_argument, "route: found topk {} for {} experts, expected 1..{}", options.topk, experts, most);
  }
  check_enum("score", options.score, Score::sparsemixer);
  check_enum("chosen", options.chosen, ChosenScore::sigmoid);
  check_enum("normalize", options.normalize, Normalize::power_norm);
  check_enum("order", options.order, Order::any);
  check_numbers(options);
  check_rules(options);
  check_groups(options, experts);
  check_floats("selection_bias", options.selection_bias.data, options.selection_bias.dtype);
  check_ids("table", options.table.data, options.table.dtype);
  if (options.table.data != nullptr && (options.table_rows < 1 || options.table_rows > kMaxTokens)) {
    fail(Code::invalid_argument, "route: found a table of {} rows, expected 1..{}", options.table_rows, kMaxTokens);
  }
}

RouterOptions without_one_group(RouterOptions options) {
  if (options.groups == 1) {
    options.groups = 0;
  }
  return options;
}

void check_inputs(const RouterOptions& options, const RouteInputs& inputs, std::int64_t tokens, std::int32_t experts) {
  check_sequences(inputs, tokens);
  if (options.table.data != nullptr) {
    check_table(options, inputs, tokens, experts);
  }
  check_ids("forced", inputs.forced.data, inputs.forced.dtype);
  for (std::int64_t t = 0; inputs.forced.data != nullptr && t < tokens; ++t) {
    if (is_valid(inputs, t) && (inputs.replayed == nullptr || inputs.replayed[t] != 0)) {
      check_id_row("forced", inputs.forced, t, options.topk, -1, experts);
    }
  }
}

void add_options(NamedMemory& read, const RouterOptions& options, std::int32_t experts) {
  read.add("selection_bias", options.selection_bias.data, experts, options.selection_bias.dtype);
  read.add("logit_bias", options.logit_bias, experts, DType::f32);
  read.add("expert_scale", options.expert_scale, experts, DType::f32);
  if (options.table.data != nullptr) {
    read.add("table", options.table.data, options.table_rows * options.topk, options.table.dtype);
  }
}

void add_inputs(NamedMemory& read, const RouteInputs& inputs, std::int64_t tokens, std::int32_t topk) {
  read.add("valid", inputs.valid, tokens, DType::u8);
  read.add("forced", inputs.forced.data, tokens * topk, inputs.forced.dtype);
  read.add("replayed", inputs.replayed, tokens, DType::u8);
  read.add("token_id", inputs.token_id.data, tokens, inputs.token_id.dtype);
  if (inputs.sequence_begin != nullptr) {
    read.add("sequence_begin", inputs.sequence_begin, inputs.sequences + 1, DType::i64);
  }
}

void add_outputs(NamedMemory& written, const RouteOutputs& outputs, std::int64_t tokens, std::int32_t topk,
                 std::int64_t experts, std::int64_t sequences) {
  written.add("expert", outputs.expert.data, tokens * topk, outputs.expert.dtype);
  written.add("weight", outputs.weight.data, tokens * topk, outputs.weight.dtype);
  written.add("probability", outputs.probability.data, tokens * experts, outputs.probability.dtype);
  written.add("byte_map", outputs.byte_map, tokens * experts, DType::u8);
  written.add("bit_map", outputs.bit_map, tokens * ((experts + 7) / 8), DType::u8);
  written.add("chosen_logit", outputs.chosen_logit, tokens * topk, DType::f32);
  written.add("aux_score", outputs.aux_score, tokens * experts, DType::f32);
  written.add("count", outputs.count, sequences * experts, DType::i64);
  written.add("score_sum", outputs.score_sum, sequences * experts, DType::f64);
  written.add("z_sum", outputs.z_sum, sequences, DType::f64);
  written.add("valid_count", outputs.valid_count, sequences, DType::i64);
  written.add("cutoff", outputs.cutoff, tokens, DType::f32);
  written.add("histogram", outputs.histogram, experts * outputs.bins, DType::i32);
}

void add_gradients(NamedMemory& read, const RouteGradients& gradients, std::int64_t tokens, std::int32_t topk,
                   std::int64_t experts, std::int64_t sequences) {
  read.add("expert", gradients.expert.data, tokens * topk, gradients.expert.dtype);
  read.add("gradient of weight", gradients.weight.data, tokens * topk, gradients.weight.dtype);
  read.add("gradient of probability", gradients.probability.data, tokens * experts, gradients.probability.dtype);
  read.add("chosen_logit", gradients.chosen_logit, tokens * topk, DType::f32);
  read.add("gradient of aux", gradients.aux, sequences * experts, DType::f32);
}

void check_outputs(const RouterOptions& options, const RouteInputs& inputs, const RouteOutputs& outputs,
                   std::int32_t experts) {
  check_ids("expert", outputs.expert.data, outputs.expert.dtype);
  if (outputs.expert.data != nullptr && outputs.expert.dtype == DType::i16 && experts > 32768) {
    fail(Code::invalid_argument, "route: expert is i16 for {} experts, expected at most 32768", experts);
  }
  check_floats("weight", outputs.weight.data, outputs.weight.dtype);
  check_floats("probability", outputs.probability.data, outputs.probability.dtype);
  if (outputs.cutoff == nullptr && outputs.histogram == nullptr) {
    return;
  }
  if (options.topk >= experts || options.groups != 0 || options.table.data != nullptr ||
      inputs.forced.data != nullptr) {
    fail(Code::invalid_argument,
         "route: found a cutoff or histogram with topk {} of {} experts, {} groups{}, expected topk below the experts, "
         "no groups and no given ids",
         options.topk, experts, options.groups,
         options.table.data != nullptr || inputs.forced.data != nullptr ? " and given ids" : "");
  }
  if (outputs.histogram == nullptr) {
    return;
  }
  constexpr std::int32_t kMaxBins = 1 << 20;  // exact in fp32
  if (options.score == Score::softmax || options.score == Score::sparsemixer) {
    fail(Code::invalid_argument, "route: found a histogram with score {}, expected a score of each expert alone",
         score_name(options.score));
  }
  if (outputs.bins < 1 || outputs.bins > kMaxBins || !(outputs.qb_lower < outputs.qb_upper) ||
      !std::isfinite(outputs.qb_upper - outputs.qb_lower)) {
    fail(Code::invalid_argument, "route: found {} bins from {} to {}, expected 1..{} and finite ascending bounds",
         outputs.bins, outputs.qb_lower, outputs.qb_upper, kMaxBins);
  }
}

void check_gradients(const RouterOptions& options, const RouteGradients& gradients, const ConstMatrix& logits,
                     const Matrix& dlogits) {
  const auto experts = static_cast<std::int32_t>(dlogits.cols);
  check_floats("dlogits", &dlogits, dlogits.dtype);
  if (dlogits.stride < dlogits.cols || (dlogits.rows > 0 && dlogits.data == nullptr)) {
    fail(Code::invalid_argument, "route: found dlogits with stride {}{}, expected memory and a stride of at least {}",
         dlogits.stride, dlogits.data == nullptr ? " and no data" : "", dlogits.cols);
  }
  check_offsets("route", "dlogits", dlogits.rows, dlogits.stride);
  check_floats("gradient of weight", gradients.weight.data, gradients.weight.dtype);
  check_floats("gradient of probability", gradients.probability.data, gradients.probability.dtype);
  check_ids("expert", gradients.expert.data, gradients.expert.dtype);
  if (!std::isfinite(gradients.z)) {
    fail(Code::invalid_argument, "route: found a gradient of z of {}, expected a finite number", gradients.z);
  }
  const bool sparse = route_gradient_is_sparse(options) && gradients.aux == nullptr && gradients.z == 0.0F;
  if (dlogits.rows > 0 && logits.data == nullptr && !(sparse && gradients.chosen_logit != nullptr)) {
    fail(Code::invalid_argument, "route: found no logits, expected them{}",
         sparse ? " or the chosen ones" : " for a gradient that is not sparse");
  }
  if (dlogits.rows > 0 && gradients.expert.data == nullptr) {
    fail(Code::invalid_argument, "route: found a gradient without expert, expected what route gave");
  }
  for (std::int64_t t = 0; t < dlogits.rows; ++t) {
    check_id_row("expert", gradients.expert, t, options.topk, -1, experts);
  }
}

}  // namespace switchyard
