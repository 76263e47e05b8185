// `switchyard demo`: the example model from its routing to its speed, in under a minute.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "bench_layer.hpp"
#include "commands.hpp"
#include "engine.hpp"
#include "files.hpp"
#include "report.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr std::size_t kShownTokens = 60;
constexpr std::size_t kTokensPerLine = 4;
constexpr double kBenchSeconds = 2;
constexpr std::int64_t kBenchTokens[] = {1, 16, 1024};

bool has_model(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder / "config.json", ignored);
}

std::filesystem::path find_example() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  std::filesystem::path installed = program.parent_path().parent_path() / "share/switchyard/examples/tiny_qwen3_moe";
  if (!error && has_model(installed)) return installed;
  std::filesystem::path source = SWITCHYARD_EXAMPLE_MODEL;
  if (has_model(source)) return source;
  throw Error(Code::io, fmt::format("demo: no example model in {} or {}, expected one there or as --model",
                                    installed.string(), source.string()));
}

// Colours are for people: on a terminal, and not if they are unwanted (https://no-color.org).
bool wants_colour() { return ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr; }

std::string heading(std::string_view text) {
  return wants_colour() ? fmt::format("\n\x1b[1m{}\x1b[0m\n", text) : fmt::format("\n{}\n", text);
}

std::string byte_text(std::byte byte) {
  const auto c = std::to_integer<unsigned char>(byte);
  if (c == '\n') return "\\n";
  if (c == '\t') return "\\t";
  if (c >= 0x20 && c < 0x7f) return fmt::format("{}", static_cast<char>(c));
  return fmt::format("\\x{:02x}", c);
}

// Down the columns, as a text is read down a page.
void print_tokens(const LayerRun& layer, const std::vector<std::byte>& text) {
  const std::size_t shown = std::min({kShownTokens, text.size(), static_cast<std::size_t>(layer.tokens)});
  const std::size_t lines = (shown + kTokensPerLine - 1) / kTokensPerLine;
  for (std::size_t line = 0; line < lines; ++line) {
    for (std::size_t token = line; token < shown; token += lines) {
      std::string experts;
      for (std::int32_t slot = 0; slot < layer.topk; ++slot) {
        experts += fmt::format(
            " {:>2}", layer.expert[token * static_cast<std::size_t>(layer.topk) + static_cast<std::size_t>(slot)]);
      }
      fmt::print("  {:>4} {}", byte_text(text[token]), experts);
    }
    fmt::print("\n");
  }
}

void print_loads(const ModelRun& run) {
  const auto [before, after] = wants_colour() ? std::pair("\x1b[36m", "\x1b[0m") : std::pair("", "");
  for (const LayerRun& layer : run.layers) {
    const auto most = std::max_element(layer.load.begin(), layer.load.end());
    fmt::print("  layer {:<3} {}{}{}  mean {:.0f}, most {} (expert {})\n", layer.layer, before, bars_text(layer.load),
               after, layer.mean_load(), *most, most - layer.load.begin());
  }
}

BenchResult bench_small(int threads) {
  BenchRequest request;
  request.configs = parse_configs({"s"});
  request.tokens.assign(std::begin(kBenchTokens), std::end(kBenchTokens));
  request.formats = {Format::f32, Format::bf16};
  request.threads = threads;
  request.seconds = kBenchSeconds;
  return bench_layers(request);
}

}  // namespace

void demo(const DemoOptions& options) {
  check_writable(options.report, "demo");
  RunOptions run_options;
  run_options.model = options.model.empty() ? find_example() : options.model;
  run_options.input = run_options.model / "moe_blocks.safetensors";
  run_options.threads = options.threads;
  run_options.expect = true;
  const ModelRun run = run_layers(run_options);
  const std::vector<std::byte> text = read_file(run_options.model / "text.txt", "demo");

  fmt::print("example {}\n{}", run_options.model.string(), facts_text(run));
  fmt::print("{}", heading(fmt::format("Experts of the text's first bytes, layer {}", run.layers.front().layer)));
  print_tokens(run.layers.front(), text);
  fmt::print("{}", heading("Rows per expert, expert 0 on the left"));
  print_loads(run);
  fmt::print("{}", heading("Agreement with Hugging Face transformers"));
  fmt::print("{}{}", layers_text(run), run.holds() ? agreement_text(run) : "");
  std::fflush(stdout);  // what follows takes seconds

  std::optional<BenchResult> bench;  // wrong results have no speed
  if (run.holds()) {
    bench = bench_small(options.threads);
    fmt::print("{}{}", heading("Speed of one layer (H 512, F 256, E 32, K 4), cold weights"), bench_text(*bench));
  }
  write_report(options.report, run, bench);
  fmt::print("\nreport: {}\n", std::filesystem::absolute(options.report).string());
  check_expectation(run);
}

}  // namespace switchyard::cli
