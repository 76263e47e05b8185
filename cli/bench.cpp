// `switchyard bench`: which configs are measured, and how the result is printed.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>

#include "../tests/cases.hpp"
#include "bench_layer.hpp"
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

std::string json_text(const BenchResult& result) {
  const Roofline& probe = result.probe;
  nlohmann::ordered_json json;
  json["probe"] = {{"isa", isa_name(probe.isa)},       {"threads", probe.threads},     {"fma_gflops", probe.fma_gflops},
                   {"bf16_gflops", probe.bf16_gflops}, {"vnni_gops", probe.vnni_gops}, {"dram_gbps", probe.dram_gbps},
                   {"cache_gbps", probe.cache_gbps}};
  json["rows"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : result.rows) {
    json["rows"].push_back({{"config", row.config},
                            {"tokens", row.tokens},
                            {"weights", format_name(row.weights)},
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
  BenchRequest request;
  request.configs = parse_configs(options.configs);
  request.tokens = options.tokens;
  request.dtypes = {options.dtype};
  request.threads = options.threads;
  const BenchResult result = bench_layers(request);
  fmt::print("{}{}", options.json ? json_text(result) : bench_text(result), options.json ? "\n" : "");
}

}  // namespace switchyard::cli
