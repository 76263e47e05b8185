// The commands and their options.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>

#include "commands.hpp"
#include "switchyard/version.hpp"

namespace switchyard::cli {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::int64_t kMaxBenchTokens = 1 << 20;

struct Options {
  InspectOptions inspect;
  RunOptions run;
  BenchOptions bench;
  DemoOptions demo;
};

// CLI::Range says nothing readable about an empty text.
CLI::Validator one_to(std::int64_t most) {
  return CLI::Validator(
      [most](const std::string& text) {
        std::int64_t value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= 1 && value <= most) return std::string();
        return fmt::format("'{}', expected a number from 1 to {}", text, most);
      },
      "");
}

void add_threads(CLI::App* command, int& threads) {
  command->add_option("--threads", threads, "Threads; default: all processors this process may use")
      ->check(one_to(kMaxThreads))
      ->type_name("N");
}

void add_dtype(CLI::App* command, DType& dtype, const std::string& description) {
  const auto set = [&dtype](const std::string& name) { dtype = name == "bf16" ? DType::bf16 : DType::f32; };
  command->add_option_function<std::string>("--dtype", set, description)
      ->check(CLI::IsMember({"f32", "bf16"}).description(""))
      ->type_name("f32|bf16");
}

CLI::App* add_inspect(CLI::App& app, InspectOptions& options) {
  CLI::App* command = app.add_subcommand("inspect", "Say what a checkpoint is, without reading a weight");
  command->add_option("MODEL", options.model, "Checkpoint folder")->required()->type_name("");
  command->add_flag("--json", options.json, "Print JSON");
  command->footer("Example:\n  switchyard inspect Qwen3-30B-A3B");
  return command;
}

CLI::App* add_run(CLI::App& app, RunOptions& options) {
  CLI::App* command = app.add_subcommand("run", "Run MoE layers on activations from a file");
  command->add_option("--model", options.model, "Checkpoint folder")->required()->type_name("FOLDER");
  command->add_option("--input", options.input, ".safetensors with layer.L.input [T,H], or one array as .npy")
      ->required()
      ->type_name("FILE");
  command->add_option("--output", options.output, ".safetensors with layer.L.output, .expert and .weight, or .npy")
      ->type_name("FILE");
  command->add_option("--layer", options.layers, "Layer to run, may be repeated; default: all the input is for")
      ->type_name("N")
      ->allow_extra_args(false);
  command->add_option("--tensor", options.tensor, "Name of the input tensor, for one --layer")->type_name("NAME");
  add_dtype(command, options.dtype, "What the experts multiply: f32 (default) or bf16");
  add_threads(command, options.threads);
  command->add_flag("--expect", options.expect, "Compare with layer.L.output and layer.L.expert of the input file");
  command->add_option("--report", options.report, "Write a page about the run")->type_name("FILE.html");
  command->footer(
      "The time of a layer is that of the fastest of up to 5 forwards.\n\n"
      "Example:\n  switchyard run --model Qwen3-30B-A3B --input blocks.safetensors --output out.safetensors");
  return command;
}

CLI::App* add_bench(CLI::App& app, BenchOptions& options) {
  CLI::App* command = app.add_subcommand("bench", "Time forwards of one layer with cold random weights");
  command->add_option("WHAT", options.what, "What to time: layer (default)")
      ->check(CLI::IsMember({"layer"}).description(""))
      ->type_name("");
  command->add_option("--config", options.configs, "a, b, c, d, s (default), all, or H,F,E,K; may be repeated")
      ->type_name("CONFIG")
      ->delimiter(' ')
      ->allow_extra_args(false);  // what follows may be WHAT
  command->add_option("--tokens", options.tokens, "Numbers of tokens; default: 1,16,64,256,1024")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(one_to(kMaxBenchTokens))
      ->type_name("LIST");
  add_dtype(command, options.dtype, "Type of weights and activations: f32 (default) or bf16");
  add_threads(command, options.threads);
  command->add_flag("--json", options.json, "Print JSON");
  command->footer(
      "a: H 2048, F 1024, E 64, K 8    b: H 2048, F 768, E 128, K 8    c: H 4096, F 3584, E 8, K 2\n"
      "d: H 3584, F 1024, E 64, K 8    s: H 512, F 256, E 32, K 4\n\n"
      "Example:\n  switchyard bench layer --config b --tokens 1,16,256 --dtype bf16");
  return command;
}

CLI::App* add_demo(CLI::App& app, DemoOptions& options) {
  CLI::App* command = app.add_subcommand("demo", "Run the example model and show what it does");
  command->add_option("--model", options.model, "Folder of the example; default: the one that came with switchyard")
      ->type_name("FOLDER");
  command->add_option("--report", options.report, "Where the page about the run goes")
      ->capture_default_str()
      ->type_name("FILE.html");
  add_threads(command, options.threads);
  command->footer("Example:\n  switchyard demo");
  return command;
}

// `step` becomes the subcommand as soon as that is known.
void run_command(int argc, char** argv, std::string& step) {
  CLI::App app("Mixture-of-Experts layers of Hugging Face checkpoints, fast on CPUs");
  app.name("switchyard");
  app.set_version_flag("--version", fmt::format("switchyard {}.{}.{}", SWITCHYARD_VERSION_MAJOR,
                                                SWITCHYARD_VERSION_MINOR, SWITCHYARD_VERSION_PATCH));
  app.require_subcommand(1);
  app.footer("Example:\n  switchyard inspect Qwen3-30B-A3B");
  Options options;
  const CLI::App* inspect_command = add_inspect(app, options.inspect);
  const CLI::App* run_subcommand = add_run(app, options.run);
  const CLI::App* bench_command = add_bench(app, options.bench);
  const CLI::App* demo_command = add_demo(app, options.demo);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (const auto parsed = app.get_subcommands(); !parsed.empty()) step = parsed.front()->get_name();
    if (error.get_exit_code() != 0) throw Error(Code::invalid_argument, fmt::format("{}: {}", step, error.what()));
    app.exit(error);  // prints the help or the version
    return;
  }
  step = app.get_subcommands().front()->get_name();
  if (*inspect_command) inspect(options.inspect);
  if (*run_subcommand) run(options.run);
  if (*bench_command) bench(options.bench);
  if (*demo_command) demo(options.demo);
  if (std::fflush(stdout) != 0) {
    throw Error(Code::io, fmt::format("{}: standard output: cannot be written: {}", step, std::strerror(errno)));
  }
}

// Without memory of its own; an Error's message has its step.
int report_failure(Code code, const std::string& step, const char* message) {
  std::fflush(stdout);
  std::fprintf(stderr, "switchyard: %s%s%s\n", step.c_str(), step.empty() ? "" : ": ", message);
  return static_cast<int>(code);
}

}  // namespace
}  // namespace switchyard::cli

int main(int argc, char** argv) {
  using switchyard::Code;
  using switchyard::cli::report_failure;
  std::string step = "arguments";
  try {
    switchyard::cli::run_command(argc, argv, step);
    return 0;
  } catch (const switchyard::Error& error) {
    return report_failure(error.code(), {}, error.what());
  } catch (const std::bad_alloc&) {
    return report_failure(Code::out_of_memory, step, "out of memory, expected enough");
  } catch (const std::filesystem::filesystem_error& error) {
    return report_failure(Code::io, step, error.what());
  } catch (const std::system_error& error) {
    return report_failure(Code::io, step, error.what());
  } catch (const std::exception& error) {
    return report_failure(Code::internal, step, error.what());
  }
}
