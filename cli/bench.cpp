// `switchyard bench`: what is measured, and how the result is printed.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>

#include "../tests/cases.hpp"
#include "bench_layer.hpp"
#include "bench_record.hpp"
#include "bench_route.hpp"
#include "commands.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 20;

[[noreturn]] void refuse(std::string_view config) {
  throw Error(Code::invalid_argument,
              fmt::format("bench: config '{}', expected a, b, c, d, s, all or H,F,E,K", config));
}

std::int64_t parse_size(std::string_view text, std::string_view config) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kMaxSize) refuse(config);
  return value;
}

BenchConfig parse_sizes(const std::string& text) {
  std::vector<std::int64_t> sizes;
  for (std::size_t first = 0; first <= text.size();) {
    const std::size_t end = std::min(text.find(',', first), text.size());
    sizes.push_back(parse_size(std::string_view(text).substr(first, end - first), text));
    first = end + 1;
  }
  if (sizes.size() != 4) refuse(text);
  const auto experts = static_cast<std::int32_t>(sizes[2]);
  const auto topk = static_cast<std::int32_t>(sizes[3]);
  if (experts > kMaxExperts || topk > std::min(experts, kMaxTopk)) {
    throw Error(Code::invalid_argument, fmt::format("bench: config '{}': E {}, expected 1..{}, K {}, expected 1..{}",
                                                    text, experts, kMaxExperts, topk, std::min(experts, kMaxTopk)));
  }
  return {text, sizes[0], sizes[1], experts, topk};
}

nlohmann::ordered_json caches_json() {
  const Caches& caches = processor_caches();
  return {{"cores", caches.cores},       {"hardware_threads", caches.hardware_threads},
          {"l1_bytes", caches.l1_bytes}, {"l2_bytes", caches.l2_bytes},
          {"l3_bytes", caches.l3_bytes}, {"l3_cores", caches.l3_cores}};
}

nlohmann::ordered_json probe_json(const Roofline& probe) {
  return {{"isa", isa_name(probe.isa)},       {"threads", probe.threads},     {"fma_gflops", probe.fma_gflops},
          {"bf16_gflops", probe.bf16_gflops}, {"vnni_gops", probe.vnni_gops}, {"dram_gbps", probe.dram_gbps},
          {"cache_gbps", probe.cache_gbps},   {"caches", caches_json()}};
}

std::string json_text(const BenchResult& result) {
  nlohmann::ordered_json json;
  json["probe"] = probe_json(result.probe);
  json["rows"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : result.rows) {
    json["rows"].push_back({{"config", row.config},
                            {"tokens", row.tokens},
                            {"weights", format_name(row.weights)},
                            {"activations", dtype_name(row.activations)},
                            {"isa", isa_name(row.isa)},
                            {"threads", row.threads},
                            {"path", path_name(row.path)},
                            {"ms", row.ms},
                            {"gflops", row.gflops},
                            {"gbps", row.gbps},
                            {"roofline", row.roofline}});
  }
  return json.dump(2);
}

std::string json_text(const RouteBenchResult& result) {
  nlohmann::ordered_json json;
  json["probe"] = probe_json(result.probe);
  json["rows"] = nlohmann::ordered_json::array();
  for (const RouteBenchRow& row : result.rows) {
    json["rows"].push_back({{"router", row.config.name},
                            {"score", score_name(row.config.router.score)},
                            {"logits", dtype_name(row.config.dtype)},
                            {"experts", row.config.experts},
                            {"topk", row.config.router.topk},
                            {"tokens", row.tokens},
                            {"isa", isa_name(row.isa)},
                            {"threads", row.threads},
                            {"ms", row.ms},
                            {"ns_per_token", row.ns_per_token()},
                            {"read_ms", row.read_ms},
                            {"of_reading", row.of_reading()},
                            {"plain_ms", row.plain_ms},
                            {"of_plain", row.of_plain()}});
  }
  return json.dump(2);
}

std::string json_text(const std::vector<RecordBenchRow>& rows) {
  nlohmann::ordered_json json;
  json["isa"] = isa_name(current_isa());
  json["rows"] = nlohmann::ordered_json::array();
  for (const RecordBenchRow& row : rows) {
    json["rows"].push_back(
        {{"work", row.work}, {"ms", row.ms}, {"bytes", row.bytes}, {"ratio", row.ratio}, {"beside", row.beside}});
    if (row.size > 0) json["rows"].back()["size"] = row.size;
  }
  return json.dump(2);
}

template <class Result>
void print(const Result& result, bool json) {
  fmt::print("{}{}", json ? json_text(result) : bench_text(result), json ? "\n" : "");
}

void bench_layer(const BenchOptions& options) {
  if (options.dtype == DType::f16) throw Error(Code::invalid_argument, "bench: --dtype f16, layers are f32 or bf16");
  BenchRequest request;
  request.configs = parse_configs(options.configs.empty() ? std::vector<std::string>{"s"} : options.configs);
  request.tokens = options.tokens;
  if (request.tokens.empty()) request.tokens.assign(kBenchTokens.begin(), kBenchTokens.end());
  request.dtype = options.dtype;
  request.formats = options.weights;
  if (request.formats.empty()) request.formats = {options.dtype == DType::bf16 ? Format::bf16 : Format::f32};
  request.threads = options.threads;
  print(bench_layers(request), options.json);
}

RouteBenchCase make_case(const RouteCase& from, const BenchOptions& options, DType dtype) {
  RouteBenchCase made{std::string(from.name), {}, from.selection_bias, options.experts, dtype};
  made.router.topk = options.router.topk;
  made.router.score = from.score;
  made.router.normalize = from.normalize;
  made.router.groups = from.groups;
  made.router.kept_groups = from.kept_groups;
  made.router.group_best = from.group_best;
  return made;
}

void bench_route(const BenchOptions& options) {
  if (options.router.score == Score::sparsemixer ||
      (options.router.normalize != Normalize::none && options.router.normalize != Normalize::sum)) {
    throw Error(
        Code::invalid_argument,
        "bench: no plain code to compare with, expected another --score than sparsemixer, --normalize none or sum");
  }
  const std::vector<DType> dtypes =
      options.dtype ? std::vector<DType>{*options.dtype} : std::vector<DType>{DType::f32, DType::bf16};
  RouteBenchRequest request;
  for (const DType dtype : dtypes) {
    if (options.score_given) {
      request.cases.push_back(
          {score_name(options.router.score), options.router, options.selection_bias, options.experts, dtype});
      continue;
    }
    for (const RouteCase& from : kRouteBenchCases) request.cases.push_back(make_case(from, options, dtype));
  }
  request.tokens = options.tokens;
  if (request.tokens.empty()) request.tokens.assign(kRouteBenchTokens.begin(), kRouteBenchTokens.end());
  request.outputs = options.outputs;
  request.threads = options.threads;
  request.repeat = options.repeat;
  print(bench_routes(request), options.json);
}

}  // namespace

std::vector<BenchConfig> parse_configs(const std::vector<std::string>& names) {
  std::vector<BenchConfig> configs;
  for (const std::string& name : names) {
    const std::size_t before = configs.size();
    for (const LayerCase& shape : kBenchCases) {
      if (name != shape.name && name != "all") continue;
      configs.push_back({std::string(shape.name), shape.hidden, shape.ffn, shape.experts, shape.topk});
    }
    if (configs.size() == before) configs.push_back(parse_sizes(name));
  }
  return configs;
}

void bench(const BenchOptions& options) {
  if (options.what == "route") {
    bench_route(options);
  } else if (options.what == "record") {
    print(bench_records(options.repeat), options.json);
  } else {
    bench_layer(options);
  }
}

}  // namespace switchyard::cli
