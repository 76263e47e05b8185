// The encodings of a record: blobs of 256 rows of 4 layers, one after the other, more than a core's own cache holds.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "bench_record.hpp"
#include "switchyard/record_encoding.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int64_t kSets = 1024;
constexpr std::size_t kBlobs = 256;

// Ascending sets of distinct ids, [kSets,K] of u8 or u16.
std::vector<std::byte> random_sets(const IdShape& shape, std::mt19937& random) {
  std::vector<std::byte> ids(shape.bytes());
  std::vector<char> taken(static_cast<std::size_t>(shape.experts));
  std::byte* to = ids.data();
  for (std::int64_t set = 0; set < shape.sets; ++set) {
    std::fill(taken.begin(), taken.end(), char{0});
    for (std::int32_t k = 0; k < shape.topk;) {
      char& at = taken[random() % taken.size()];
      k += at == 0 ? 1 : 0;
      at = 1;
    }
    for (std::size_t id = 0; id < taken.size(); ++id) {
      if (taken[id] == 0) continue;
      const auto value = static_cast<std::uint16_t>(id);  // little-endian
      std::memcpy(to, &value, shape.id_bytes());
      to += shape.id_bytes();
    }
  }
  return ids;
}

struct State {
  IdShape shape;
  std::vector<std::vector<std::byte>> ids;
  std::vector<std::vector<std::byte>> blobs;
  std::vector<std::byte> back;
  IdEncoder encoder;
  IdDecoder decoder;

  State(RecordEncoding encoding, std::int32_t experts, std::int32_t topk)
      : shape{experts, topk, SlotOrder::canonical, kSets}, back(kBlobs * shape.bytes()) {
    std::mt19937 random(1);
    for (std::size_t blob = 0; blob < kBlobs; ++blob) {
      ids.push_back(random_sets(shape, random));
      const auto bytes = encoder.encode_as(encoding, shape, ids.back().data()).bytes;
      blobs.emplace_back(bytes.begin(), bytes.end());
    }
  }
  double size() const {
    std::size_t sum = 0;
    for (const auto& blob : blobs) sum += blob.size();
    return static_cast<double>(sum) / static_cast<double>(back.size());
  }
};

}  // namespace

RecordWork make_decode_work(RecordEncoding encoding, std::int32_t experts, std::int32_t topk) {
  const auto state = std::make_shared<State>(encoding, experts, topk);
  const auto decode = [state, encoding] {
    for (std::size_t blob = 0; blob < kBlobs; ++blob) {
      state->decoder.decode(encoding, state->shape, state->blobs[blob], 0, kSets,
                            state->back.data() + blob * state->shape.bytes());
    }
  };
  const auto copy = [state] {
    for (std::size_t blob = 0; blob < kBlobs; ++blob) {
      std::memcpy(state->back.data() + blob * state->shape.bytes(), state->ids[blob].data(), state->shape.bytes());
    }
  };
  return {static_cast<double>(state->back.size()), decode, "memcpy of the ids", copy,
          [state] { return state->size(); }};
}

}  // namespace switchyard::cli
