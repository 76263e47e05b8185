// Encodings of the record: blobs of 256 rows of 8 layers, in the caches. GB/s of ids; `size` is the blob over its ids.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../tests/record_rows.hpp"
#include "bench_main.hpp"
#include "switchyard/record_encoding.hpp"

namespace switchyard {
namespace {

struct Case {
  std::int32_t experts;
  std::int32_t topk;
};
constexpr Case kCases[] = {{128, 8}, {256, 8}, {384, 8}, {512, 10}, {512, 22}};
constexpr RecordEncoding kEncodings[] = {RecordEncoding::raw,         RecordEncoding::packed,
                                         RecordEncoding::elias_fano,  RecordEncoding::raw_zstd,
                                         RecordEncoding::packed_zstd, RecordEncoding::elias_fano_zstd};

void run_case(benchmark::State& state, const Case& c, RecordEncoding encoding, bool decode) {
  const IdShape shape{c.experts, c.topk, SlotOrder::canonical, 2048};
  const auto ids = testing::random_rows({c.experts, c.topk, {0}, shape.order, ""}, shape.sets, 1);
  IdEncoder encoder;
  IdDecoder decoder;
  const auto encoded = encoder.encode_as(encoding, shape, ids.data()).bytes;
  const std::vector<std::byte> blob(encoded.begin(), encoded.end());
  std::vector<std::byte> back(ids.size());
  for (auto _ : state) {
    if (decode) {
      decoder.decode(encoding, shape, blob, 0, shape.sets, back.data());
      benchmark::DoNotOptimize(back.data());
    } else {
      benchmark::DoNotOptimize(encoder.encode_as(encoding, shape, ids.data()).bytes.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(ids.size()));
  state.counters["size"] = static_cast<double>(blob.size()) / static_cast<double>(ids.size());
}

void register_all() {
  for (const bool decode : {true, false}) {
    for (const Case& c : kCases) {
      for (const RecordEncoding encoding : kEncodings) {
        const std::string name = std::string(decode ? "decode/" : "encode/") + record_encoding_name(encoding) + "/" +
                                 std::to_string(c.experts) + "/" + std::to_string(c.topk);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) { run_case(state, c, encoding, decode); });
      }
    }
  }
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run_benchmarks(argc, argv, switchyard::register_all); }
