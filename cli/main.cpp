// The commands and their options.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "route_outputs.hpp"
#include "switchyard/version.hpp"

namespace switchyard::cli {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::int64_t kMaxBenchTokens = 1 << 20;
constexpr int kMaxBins = 1 << 20;
constexpr int kMaxRepeat = 1000;

struct Options {
  InspectOptions inspect;
  RunOptions run;
  RouteOptions route;
  BenchOptions bench;
  RecordOptions record;
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

template <class Value>
using Choices = std::vector<std::pair<std::string, Value>>;

// An option whose value is one of a few names.
template <class Value, class Target>
CLI::Option* add_choice(CLI::App* command, const std::string& flag, Target& target, const Choices<Value>& choices,
                        const std::string& description) {
  std::vector<std::string> names;
  for (const auto& [name, value] : choices) names.push_back(name);
  const auto set = [&target, choices](const std::string& text) {
    for (const auto& [name, value] : choices) {
      if (name == text) target = value;
    }
  };
  return command->add_option_function<std::string>(flag, set, description)
      ->check(CLI::IsMember(names).description(""))
      ->type_name(CLI::detail::join(names, "|"));
}

Choices<DType> dtype_choices(std::initializer_list<DType> dtypes) {
  Choices<DType> choices;
  for (const DType dtype : dtypes) choices.emplace_back(dtype_name(dtype), dtype);
  return choices;
}

Choices<Format> format_choices() {
  Choices<Format> choices;
  for (std::int32_t i = 0; i < kFormats; ++i) {
    choices.emplace_back(format_name(static_cast<Format>(i)), static_cast<Format>(i));
  }
  return choices;
}

CLI::Option* add_weights(CLI::App* command, std::optional<Format>& weights, const std::string& description) {
  return add_choice(command, "--weights", weights, format_choices(), description);
}

CLI::Option* add_score(CLI::App* command, Score& score) {
  Choices<Score> choices;
  for (const Score value : {Score::softmax, Score::sigmoid, Score::sqrt_softplus, Score::logit, Score::sparsemixer}) {
    choices.emplace_back(score_name(value), value);
  }
  return add_choice(command, "--score", score, choices, "What a logit becomes");
}

CLI::Option* add_normalize(CLI::App* command, Normalize& normalize) {
  return add_choice<Normalize>(command, "--normalize", normalize,
                               {{"none", Normalize::none},
                                {"sum", Normalize::sum},
                                {"clamped", Normalize::clamped_sum},
                                {"power", Normalize::power_norm}},
                               "What the chosen scores are divided by: nothing (default), their sum + epsilon, "
                               "max(sum, epsilon), their norm of --power");
}

CLI::Option* add_topk(CLI::App* command, std::int32_t& topk, const std::string& description) {
  return command->add_option("--topk", topk, description)->check(one_to(kMaxTopk))->type_name("K");
}

std::vector<CLI::Option*> add_groups(CLI::App* command, RouterOptions& router) {
  const auto add = [&](const char* flag, std::int32_t& value, const char* description, std::int32_t most) {
    return command->add_option(flag, value, description)->check(one_to(most))->type_name("N");
  };
  return {add("--groups", router.groups, "Groups of neighbouring experts, 1: none; default: none", kMaxGroups),
          add("--kept-groups", router.kept_groups, "Best groups that experts come from", kMaxGroups),
          add("--group-best", router.group_best, "A group's score is the sum of this many best; default: 1", kMaxTopk)};
}

CLI::Option* add_outputs(CLI::App* command, std::vector<std::string>& outputs, const std::string& description) {
  return command->add_option("--outputs", outputs, description)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(std::vector<std::string>(kRouteOutputs.begin(), kRouteOutputs.end())).description(""))
      ->type_name("LIST");
}

CLI::App* add_inspect(CLI::App& app, InspectOptions& options) {
  CLI::App* command = app.add_subcommand("inspect", "Say what a checkpoint is, without reading a weight");
  command->add_option("MODEL", options.model, "Checkpoint folder")->required()->type_name("");
  command->add_option("--tokens", options.tokens, "Say how much workspace a forward of so many tokens needs")
      ->check(one_to(kMaxTokens))
      ->type_name("N");
  add_choice(command, "--dtype", options.dtype, dtype_choices({DType::f32, DType::bf16}),
             "What the experts of that forward multiply; default: f32");
  add_weights(command, options.weights, "What their weights are packed to; default: every format for the sizes");
  add_threads(command, options.threads);
  command->add_flag("--json", options.json, "Print JSON");
  command->footer("Example:\n  switchyard inspect Qwen3-30B-A3B --tokens 8192");
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
  add_choice(command, "--dtype", options.dtype, dtype_choices({DType::f32, DType::bf16}),
             "What the experts multiply; default: f32");
  add_weights(command, options.weights,
              "What their weights are packed to; default: bf16 if they or --dtype are, or f32");
  add_choice<std::optional<DType>>(command, "--router", options.router, {{"f32", DType::f32}, {"bf16", DType::bf16}},
                                   "What the router's GEMM gives; default: as the family has it");
  add_threads(command, options.threads);
  command->add_option("--cache", options.cache, "Keep packed weights in this folder, and use those that are there")
      ->type_name("FOLDER");
  command->add_flag("--expect", options.expect, "Compare with layer.L.output and layer.L.expert of the input file");
  command->add_option("--report", options.report, "Write a page about the run")->type_name("FILE.html");
  command->add_option("--record", options.record, "Record store that the experts of every token are appended to")
      ->type_name("FILE.db");
  command->footer(
      "The time of a layer is that of the fastest of up to 5 forwards.\n\n"
      "Example:\n  switchyard run --model Qwen3-30B-A3B --input blocks.safetensors --output out.safetensors");
  return command;
}

void add_router(CLI::App* command, RouteOptions& options) {
  RouterOptions& router = options.router;
  const auto add_number = [&](const char* flag, float& value, const char* description) {
    command->add_option(flag, value, description)->type_name("X");
  };
  const auto add_file = [&](const char* flag, std::string& place, const char* description) {
    command->add_option(flag, place, description)->type_name("FILE");
  };
  add_topk(command, router.topk, "Experts per token; default: 1");
  add_score(command, router.score);
  add_choice<ChosenScore>(
      command, "--chosen", router.chosen,
      {{"none", ChosenScore::none}, {"softmax", ChosenScore::softmax}, {"sigmoid", ChosenScore::sigmoid}},
      "What the scores of the chosen become, with --score logit");
  add_normalize(command, router.normalize);
  add_number("--epsilon", router.epsilon, "See --normalize; default: 0");
  add_number("--power", router.power, "See --normalize; default: 1");
  add_number("--scale", router.scale, "Factor of the weights; default: 1");
  add_groups(command, router);
  command->add_flag("--masked-zero", router.masked_zero, "Experts of the other groups have the selection 0, not -inf");
  add_file("--bias", options.selection_bias, "[E] f32, bf16 or f16, added to the scores to choose by");
  add_file("--expert-scale", options.expert_scale, "[E] f32, a factor of each expert's weights");
  add_number("--logit-scale", router.logit_scale, "Factor of the logits; default: 1");
  add_file("--logit-bias", options.logit_bias, "[E] f32, added to the logits");
  command->add_flag("--round-logits", router.round_logits,
                    "Round them to bf16 before the soft cap, as a router in bf16 does");
  add_number("--softcap", router.softcap, "l becomes softcap tanh(l / softcap); default: none");
  add_number("--jitter", router.jitter, "Of sparsemixer; default: 0.01");
  add_choice<Order>(command, "--order", router.order,
                    {{"score", Order::score}, {"expert", Order::expert}, {"any", Order::any}},
                    "How a token's slots follow one another; default: score");
  add_file("--table", options.table, "[rows,K] i16, i32 or i64: experts by token id, not by score");
  add_file("--token-ids", options.token_ids, "[T] i32 or i64, for --table");
  add_file("--valid", options.valid, "[T] u8 or bool, 0: padding");
  add_file("--forced", options.forced, "[T,K] i16, i32 or i64: the experts to replay, -1: none");
  add_file("--replayed", options.replayed, "[T] u8 or bool, 0: the token is routed live");
  add_file("--sequences", options.sequences, "[S+1] i64, borders of sequences, for counts and sums of their own");
}

CLI::App* add_route(CLI::App& app, RouteOptions& options) {
  CLI::App* command = app.add_subcommand("route", "Choose experts for logits from a file");
  command->add_option("--logits", options.logits, "[T,E] f32, bf16 or f16")->required()->type_name("FILE");
  command->add_option("--output", options.output, "Where the results go, .safetensors")->required()->type_name("FILE");
  add_router(command, options);
  add_outputs(command, options.outputs,
              "What is written; default: expert,weight,count. All: " + CLI::detail::join(kRouteOutputs, ","));
  add_choice(command, "--expert-type", options.expert_type, dtype_choices({DType::i16, DType::i32, DType::i64}),
             "Type of the experts' ids; default: i32");
  add_choice(command, "--weight-type", options.weight_type, dtype_choices({DType::f32, DType::bf16, DType::f16}),
             "Type of weights and probabilities; default: f32");
  command->add_option("--bins", options.bins, "Bins of the histogram")->check(one_to(kMaxBins))->type_name("N");
  command->add_option("--qb-lower", options.qb_lower, "Lower bound of the histogram")->type_name("X");
  command->add_option("--qb-upper", options.qb_upper, "Upper bound of the histogram")->type_name("X");
  add_threads(command, options.threads);
  command->footer(
      "A FILE is one array: x.npy, x.safetensors with one tensor, or x.safetensors:TENSOR.\n\n"
      "Example:\n  switchyard route --logits logits.npy --topk 8 --score sigmoid --normalize sum --output "
      "r.safetensors");
  return command;
}

// An option of one kind of benchmark does nothing in another.
void check_groups_of_options(const CLI::App* command, const std::string& what) {
  for (const CLI::Option* option : command->get_options()) {
    for (const std::string_view other : {"layer", "route"}) {
      if (option->get_group() == fmt::format("bench {}", other) && other != what && option->count() > 0) {
        throw CLI::ValidationError(option->get_name(), fmt::format("is for bench {} alone", other));
      }
    }
  }
}

void add_bench_route(CLI::App* command, BenchOptions& options) {
  std::vector<CLI::Option*> all = add_groups(command, options.router);
  CLI::Option* score = add_score(command, options.router.score);
  all.push_back(add_normalize(command, options.router.normalize));
  all.push_back(command->add_flag("--bias", options.selection_bias, "With a bias to choose by"));
  for (CLI::Option* option : all) option->needs(score);
  all.push_back(score);
  all.push_back(command->add_option("--experts", options.experts, "Experts; default: 256")
                    ->check(one_to(kMaxExperts))
                    ->type_name("E"));
  all.push_back(add_topk(command, options.router.topk, "Experts per token; default: 8"));
  all.push_back(add_outputs(command, options.outputs, "What is written; default: expert,weight"));
  for (CLI::Option* option : all) option->group("bench route");
  command->final_callback([command, score, &options] {
    options.score_given = score->count() > 0;
    check_groups_of_options(command, options.what);
  });
}

void add_bench_weights(CLI::App* command, std::vector<Format>& weights) {
  std::vector<std::string> names{"all"};
  for (const auto& [name, format] : format_choices()) names.push_back(name);
  const auto set = [&weights](const std::vector<std::string>& chosen) {
    for (const std::string& name : chosen) {
      for (const auto& [each, format] : format_choices()) {
        if (name == "all" || name == each) weights.push_back(format);
      }
    }
  };
  command
      ->add_option_function<std::vector<std::string>>("--weights", set, "What weights are packed to; default: --dtype")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(names).description(""))
      ->type_name(CLI::detail::join(names, "|"))
      ->group("bench layer");
}

void add_bench_tokens(CLI::App* command, std::vector<std::int64_t>& tokens) {
  const auto set = [&tokens](const std::vector<std::string>& chosen) {
    for (const std::string& each : chosen) {
      std::int64_t number = 0;
      if (!CLI::detail::lexical_cast(each, number)) return tokens.clear();  // all
      tokens.push_back(number);
    }
  };
  const CLI::Validator number = one_to(kMaxBenchTokens);
  const auto check = [number](const std::string& text) { return text == "all" ? std::string() : number(text); };
  command
      ->add_option_function<std::vector<std::string>>(
          "--tokens", set, "Numbers of tokens; default and all: 1,16,64,256,1024; route: 1,16384")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check, ""))
      ->type_name("LIST|all");
}

CLI::App* add_bench(CLI::App& app, BenchOptions& options) {
  CLI::App* command = app.add_subcommand("bench", "Time forwards of one layer, routing, or the routing record");
  command->add_option("WHAT", options.what, "What to time: layer (default), route or record")
      ->check(CLI::IsMember({"layer", "route", "record"}).description(""))
      ->type_name("");
  add_bench_tokens(command, options.tokens);
  add_choice(command, "--dtype", options.dtype, dtype_choices({DType::f32, DType::bf16, DType::f16}),
             "Type of hidden states, router and weights before they are packed, and of activations where the format\n"
             "takes them, f32 or bf16; default: f32 with f32, else bf16; of logits, default: f32 and bf16");
  add_threads(command, options.threads);
  command->add_flag("--json", options.json, "Print JSON");
  command->add_option("--repeat", options.repeat, "Rounds of route and record; default: as 1 or 2 seconds allow")
      ->check(one_to(kMaxRepeat))
      ->type_name("N");
  command->add_option("--config", options.configs, "a, b, c, d, s (default), all, or H,F,E,K; may be repeated")
      ->type_name("CONFIG")
      ->delimiter(' ')
      ->allow_extra_args(false)  // what follows may be WHAT
      ->group("bench layer");
  add_bench_weights(command, options.weights);
  add_bench_route(command, options);
  command->footer(
      "layer: forwards with cold random weights.\n"
      "a: H 2048, F 1024, E 64, K 8    b: H 2048, F 768, E 128, K 8    c: H 4096, F 3584, E 8, K 2\n"
      "d: H 3584, F 1024, E 64, K 8    s: H 512, F 256, E 32, K 4\n\n"
      "route: beside reading the logits once and beside plain code. Without --score: softmax, sigmoid with a bias,\n"
      "and that with 8 groups. Logits of up to 64 KiB come from the cache, more from memory.\n\n"
      "record: what a routing record is filled with, each beside another way to do it.\n\n"
      "Example:\n  switchyard bench layer --config b --tokens 1,16,256 --dtype bf16");
  return command;
}

void add_record_import(CLI::App* command, RecordOptions& options) {
  command->add_option("FILE", options.files, "Bodies of responses, or .npy arrays [rows,layers,K]")
      ->required()
      ->type_name("");
  command->add_option("--experts", options.experts, "Experts")->required()->check(one_to(65536))->type_name("E");
  add_topk(command, options.topk, "Experts per token; default: as the payload has");
  command->add_option("--layer", options.layers, "Global indices of the layers; default: as the payload has")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST");
  add_choice<SlotOrder>(command, "--order", options.order,
                        {{"kept", SlotOrder::kept}, {"canonical", SlotOrder::canonical}},
                        "Slots as they came (default), or ascending, in fewer bytes");
  command->add_option("--model", options.model, "Fingerprint of the model, any text")->type_name("TEXT");
  command->add_option("--sequence", options.sequence, "Key; default: name of the file")->type_name("KEY");
  command->add_option("--start", options.start, "Position of the first row, where the payload does not say it")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("N");
  command->add_option("--policy-version", options.policy_version, "Of a sequence that is new")->type_name("N");
}

CLI::App* add_record(CLI::App& app, RecordOptions& options) {
  CLI::App* command = app.add_subcommand("record", "Look at, check and change a store of routing records");
  command->require_subcommand(1);
  command->footer("Example:\n  switchyard record stats rollout.db --report rollout.html");
  const auto add = [&](const std::string& what, const std::string& description, const std::string& example) {
    CLI::App* sub = command->add_subcommand(what, description);
    sub->add_option("DB", options.store, "Record store")->required()->type_name("");
    sub->footer("Example:\n  switchyard record " + what + " rollout.db" + example);
    sub->callback([&options, what] { options.what = what; });
    return sub;
  };
  CLI::App* show = add("show", "List the sequences", "");
  CLI::App* stats = add("stats", "Count the rows of every layer and expert", " --report rollout.html");
  CLI::App* verify = add("verify", "Read everything and say what is damaged", "");
  CLI::App* compact = add("compact", "Drop what was removed, merge small spans", "");
  for (CLI::App* sub : {show, stats, verify, compact}) sub->add_flag("--json", options.json, "Print JSON");
  stats->add_option("--report", options.report, "Write a page about the store")->type_name("FILE.html");
  CLI::App* out = add("export", "Write rows as arrays", " --sequence a --output a.npy");
  out->add_option("--output", options.output,
                  ".npy: one sequence [R,L,K] i32, missing rows -1; or .safetensors: "
                  "KEY.expert [L,R,K] and KEY.observed [R]")
      ->required()
      ->type_name("FILE");
  out->add_option("--sequence", options.sequence, "Key; default: all")->type_name("KEY");
  out->add_option("--layer", options.layers, "Layers; default: all")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST");
  add_record_import(add("import", "Append the routed experts in files", " body.json --experts 128"), options);
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
  const CLI::App* route_command = add_route(app, options.route);
  const CLI::App* bench_command = add_bench(app, options.bench);
  const CLI::App* record_command = add_record(app, options.record);
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
  if (*route_command) route(options.route);
  if (*bench_command) bench(options.bench);
  if (*record_command) record(options.record);
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
