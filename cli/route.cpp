// `switchyard route`: logits of a file → experts, weights and what else is asked for.
#include "switchyard/route.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>
#include <vector>

#include "commands.hpp"
#include "files.hpp"
#include "input.hpp"
#include "route_outputs.hpp"
#include "switchyard/balance.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/tensor_file.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr const char* kStep = "route";
constexpr std::initializer_list<DType> kFloats{DType::f32, DType::bf16, DType::f16};
constexpr std::initializer_list<DType> kIds{DType::i16, DType::i32, DType::i64};

// Arrays of files, and the options and inputs that point into them.
class Inputs {
 public:
  explicit Inputs(const RouteOptions& options) : router(options.router) {
    const FileArray& read = arrays_.emplace_back(read_array(options.logits, kStep));
    check_array(read, kStep, kFloats, {-1, -1});
    logits = {read.data, read.dtype, read.shape[0], read.shape[1]};
    sizes = {logits.rows, logits.cols, router.topk, 1, options.bins};
    read_options(options);
    read_inputs(options);
  }

  ConstMatrix logits;
  RouteSizes sizes;
  RouterOptions router;
  RouteInputs inputs;

 private:
  // Null for a file that was not named.
  const FileArray* take(const std::string& place, std::initializer_list<DType> dtypes,
                        const std::vector<std::int64_t>& shape) {
    if (place.empty()) return nullptr;
    const FileArray& array = arrays_.emplace_back(read_array(place, kStep));
    check_array(array, kStep, dtypes, shape);
    return &array;
  }

  template <class Element>
  const Element* take_data(const std::string& place, std::initializer_list<DType> dtypes,
                           const std::vector<std::int64_t>& shape) {
    const FileArray* array = take(place, dtypes, shape);
    return array != nullptr ? reinterpret_cast<const Element*>(array->data) : nullptr;
  }

  ConstArray take_array(const std::string& place, std::initializer_list<DType> dtypes,
                        const std::vector<std::int64_t>& shape) {
    const FileArray* array = take(place, dtypes, shape);
    return array != nullptr ? ConstArray{array->data, array->dtype} : ConstArray{};
  }

  void read_options(const RouteOptions& options) {
    router.selection_bias = take_array(options.selection_bias, kFloats, {sizes.experts});
    router.logit_bias = take_data<float>(options.logit_bias, {DType::f32}, {sizes.experts});
    router.expert_scale = take_data<float>(options.expert_scale, {DType::f32}, {sizes.experts});
    if (const FileArray* table = take(options.table, kIds, {-1, sizes.topk})) {
      router.table = {table->data, table->dtype};
      router.table_rows = table->shape[0];
    }
  }

  void read_inputs(const RouteOptions& options) {
    inputs.valid = take_data<std::uint8_t>(options.valid, {DType::u8, DType::boolean}, {sizes.tokens});
    inputs.forced = take_array(options.forced, kIds, {sizes.tokens, sizes.topk});
    inputs.replayed = take_data<std::uint8_t>(options.replayed, {DType::u8, DType::boolean}, {sizes.tokens});
    inputs.token_id = take_array(options.token_ids, {DType::i32, DType::i64}, {sizes.tokens});
    if (const FileArray* begin = take(options.sequences, {DType::i64}, {-1})) {
      if (begin->shape[0] < 2) {
        throw Error(Code::bad_data, fmt::format("route: {}: {} borders of sequences, expected at least 2", begin->place,
                                                begin->shape[0]));
      }
      inputs.sequence_begin = reinterpret_cast<const std::int64_t*>(begin->data);
      inputs.sequences = sizes.sequences = begin->shape[0] - 1;
    }
  }

  std::deque<FileArray> arrays_;  // whose elements stay where they are
};

void check(const RouteOptions& options) {
  if (options.output.extension() != ".safetensors") {
    throw Error(Code::invalid_argument,
                fmt::format("route: --output {}: expected a .safetensors file", options.output.string()));
  }
  check_writable(options.output, kStep);
}

// Slots of each expert, all sequences together.
std::vector<std::int64_t> total_load(const std::int64_t* count, const RouteSizes& sizes) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(sizes.experts));
  for (std::int64_t i = 0; i < sizes.sequences * sizes.experts; ++i) {
    load[static_cast<std::size_t>(i % sizes.experts)] += count[i];
  }
  return load;
}

std::string table_text(const std::vector<std::int64_t>& load, const RouteSizes& sizes) {
  const LoadStatistics statistics = load_statistics(load);
  TextTable table({"tokens", "experts", "K", "slots", "max/mean load", "entropy", "unused"});
  table.add({fmt::format("{}", sizes.tokens), fmt::format("{}", sizes.experts), fmt::format("{}", sizes.topk),
             fmt::format("{}", statistics.slots), fmt::format("{:.2f}", statistics.max_over_mean),
             fmt::format("{:.3f} of {:.3f}", statistics.entropy, std::log(static_cast<double>(sizes.experts))),
             fmt::format("{}", statistics.unused)});
  return table.text();
}

}  // namespace

void route(const RouteOptions& options) {
  check(options);
  const Inputs in(options);
  const Threads threads = Threads::pool(options.threads);
  // The library refuses what does not fit 32 bits, and all sizes that cannot be, before memory is taken for them.
  const auto experts = static_cast<std::int32_t>(std::min<std::int64_t>(in.sizes.experts, kMaxExperts + 1));
  const Workspace workspace(route_workspace_bytes(in.sizes.tokens, experts, in.sizes.sequences, threads));
  RouteMemory out(options.outputs, in.sizes, options.expert_type, options.weight_type);
  out.outputs.qb_lower = options.qb_lower;
  out.outputs.qb_upper = options.qb_upper;
  std::vector<std::int64_t> count;  // for the table that is printed
  if (out.outputs.count == nullptr) {
    count.resize(static_cast<std::size_t>(in.sizes.sequences * in.sizes.experts));
    out.outputs.count = count.data();
  }
  switchyard::route(in.logits, in.router, in.inputs, out.outputs, workspace, threads);
  write_safetensors(options.output, out.tensors);
  fmt::print("route  {}, {} logits, {}, {} thread{}\n\n{}\nwritten: {}\n", score_name(in.router.score),
             dtype_name(in.logits.dtype), isa_name(current_isa()), threads.count(), threads.count() == 1 ? "" : "s",
             table_text(total_load(out.outputs.count, in.sizes), in.sizes), options.output.string());
}

}  // namespace switchyard::cli
