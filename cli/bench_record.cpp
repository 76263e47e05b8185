#include "bench_record.hpp"

#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "bench_machine.hpp"
#include "switchyard/base64.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/payload.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

// [rows,layers,topk] distinct ids in a row and layer, of a little-endian type.
template <class Id>
std::string random_rows(std::size_t rows, std::size_t layers, std::size_t topk, unsigned experts) {
  std::mt19937 random(1);
  std::string bytes(rows * layers * topk * sizeof(Id), '\0');
  char* to = bytes.data();
  for (std::size_t set = 0; set < rows * layers; ++set) {
    unsigned id = static_cast<unsigned>(random()) % experts;
    for (std::size_t s = 0; s < topk; ++s, to += sizeof(Id)) {
      const Id value = static_cast<Id>(id);
      std::memcpy(to, &value, sizeof(Id));
      id = (id + 1) % experts;
    }
  }
  return bytes;
}

std::string base64_of(const std::string& bytes) { return encode_base64(std::as_bytes(std::span(bytes))); }

RecordSchema schema_of(std::int32_t experts, std::int32_t topk, std::int32_t first_layer, std::int32_t layers) {
  RecordSchema schema;
  schema.experts = experts;
  schema.topk = topk;
  for (std::int32_t l = 0; l < layers; ++l) schema.layers.push_back(first_layer + l);
  return schema;
}

// The workload of verifiers' pull request 1794: github.com/PrimeIntellect-ai/verifiers/pull/1794.
constexpr std::size_t kRows = 1000000;
constexpr std::size_t kWanted = 100001;
constexpr std::size_t kFirst = kRows - kWanted;
constexpr std::size_t kFirstNode = kWanted / 2;
constexpr std::size_t kRowBytes = 8 * 4;

constexpr double kSeconds = 1;  // for each work

using Bytes = std::unique_ptr<std::byte[]>;

// New memory each time, as a node that is new has.
Bytes new_bytes(std::size_t count) { return std::make_unique_for_overwrite<std::byte[]>(count); }

}  // namespace

RecordWork make_base64_work() {
  struct State {
    std::string text = base64_of(random_rows<std::uint8_t>(kRows, 8, 4, 256));
    Bytes from = new_bytes(kRows * kRowBytes);
    Bytes to = new_bytes(kRows * kRowBytes);
  };
  const auto state = std::make_shared<State>();
  constexpr std::size_t kBytes = kRows * kRowBytes;
  std::memset(state->from.get(), 1, kBytes);
  return {kBytes, [state] { decode_base64(state->text, 0, kBytes, state->to.get()); }, "memcpy of the bytes",
          [state] { std::memcpy(state->to.get(), state->from.get(), kBytes); }};
}

RecordWork make_last_rows_work() {
  struct State {
    std::string body;
    RecordSchema schema = schema_of(256, 4, 0, 8);
    Bytes nodes[2];
  };
  const auto state = std::make_shared<State>();
  state->body = fmt::format(
      R"({{"id":"1","choices":[{{"index":0,"message":{{"role":"assistant","content":"a"}},"routed_experts":)"
      R"({{"data":"{}","shape":[{},8,4],"start":0,"dtype":"uint8"}}}}],"usage":{{"prompt_tokens":1}}}})",
      base64_of(random_rows<std::uint8_t>(kRows, 8, 4, 256)), kRows);
  const auto run = [state] {
    const RowSource rows = rows_of(find_payloads(state->body).at(0).payload, state->schema);
    state->nodes[0] = new_bytes(kFirstNode * kRowBytes);
    state->nodes[1] = new_bytes((kWanted - kFirstNode) * kRowBytes);
    rows.read(kFirst, kFirst + kFirstNode, state->nodes[0].get());
    rows.read(kFirst + kFirstNode, kRows, state->nodes[1].get());
  };
  const auto other = [state] {
    const Payload payload = find_payloads(state->body).at(0).payload;
    const Bytes all = new_bytes(kRows * kRowBytes);
    decode_base64(payload.data, 0, kRows * kRowBytes, all.get());
    state->nodes[0] = new_bytes(kFirstNode * kRowBytes);
    state->nodes[1] = new_bytes((kWanted - kFirstNode) * kRowBytes);
    std::memcpy(state->nodes[0].get(), all.get() + kFirst * kRowBytes, kFirstNode * kRowBytes);
    std::memcpy(state->nodes[1].get(), all.get() + (kFirst + kFirstNode) * kRowBytes,
                (kWanted - kFirstNode) * kRowBytes);
  };
  return {kWanted * kRowBytes, run, "decoding all, copying the rows", other};
}

RecordWork make_narrowing_work() {
  struct State {
    std::string text;
    RecordSchema schema = schema_of(256, 8, 3, 58);
    Bytes all;
    Bytes rows;
  };
  constexpr std::size_t kTokens = 8192;
  constexpr std::size_t kSent = kTokens * 61 * 8 * 4;
  const auto state = std::make_shared<State>();
  state->text = base64_of(random_rows<std::int32_t>(kTokens, 61, 8, 256));
  const std::size_t kept = kTokens * record_row_bytes(state->schema);
  state->all = new_bytes(kSent);
  state->rows = new_bytes(kept);
  const auto run = [state] {
    const Payload payload = flat_payload(PayloadForm::base64, DType::i32, 61, 8, state->text);
    rows_of(payload, state->schema).read(0, kTokens, state->rows.get());
  };
  return {static_cast<double>(kept), run, "base64 decode alone",
          [state] { decode_base64(state->text, 0, kSent, state->all.get()); }};
}

std::vector<RecordBenchRow> bench_records(int repeat) {
  struct Sample {
    double seconds = 0;
    double other = 0;
  };
  const auto time = [](const std::function<void()>& work) {
    const auto start = BenchClock::now();
    work();
    return seconds_since(start);
  };
  std::vector<RecordBenchRow> rows;
  for (const NamedRecordWork& named : kRecordWorks) {
    const RecordWork work = named.make();
    work.run();  // the first touch of the memory
    work.other();
    std::vector<Sample> samples;
    for (Rounds rounds(kSeconds, repeat); rounds.next();) samples.push_back({time(work.run), time(work.other)});
    const double ms = 1e3 * median(samples, [](const Sample& s) { return s.seconds; });
    const double other = 1e3 * median(samples, [](const Sample& s) { return s.other; });
    rows.push_back({std::string(named.name), ms, work.bytes, other / ms, work.beside, work.size ? work.size() : 0});
  }
  return rows;
}

std::string bench_text(const std::vector<RecordBenchRow>& rows) {
  TextTable table({"work", "time", "bytes", "GB/s", "ratio", "to", "size"});
  for (const RecordBenchRow& row : rows) {
    table.add({row.work, time_text(row.ms), bytes_text(row.bytes), fmt::format("{:.2f}", row.bytes / row.ms / 1e6),
               fmt::format("{:.3f}", row.ratio), row.beside, row.size > 0 ? fmt::format("{:.3f}", row.size) : "-"});
  }
  return fmt::format("isa  {}\n\n{}", isa_name(current_isa()), table.text());
}

}  // namespace switchyard::cli
