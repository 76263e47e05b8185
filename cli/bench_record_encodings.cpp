// The encodings of a record: blobs of 256 rows of 8 layers, one after the other, more than a core's own cache holds.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "bench_record.hpp"
#include "switchyard/record_encoding.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int64_t kSets = 2048;
constexpr std::size_t kBlobs = 128;

enum class Spread { even, uneven };

// Uneven: the product of two even numbers, so that the lower half of the experts has 85 % of the ids.
std::size_t random_id(std::size_t experts, Spread spread, std::mt19937& random) {
  const std::size_t id = random() % experts;
  return spread == Spread::even ? id : id * (random() % experts) / experts;
}

// Ascending sets of distinct ids, [kSets,K] of u8 or u16.
std::vector<std::byte> random_sets(const IdShape& shape, Spread spread, std::mt19937& random) {
  std::vector<std::byte> ids(shape.bytes());
  std::vector<char> taken(static_cast<std::size_t>(shape.experts));
  std::byte* to = ids.data();
  for (std::int64_t set = 0; set < shape.sets; ++set) {
    std::fill(taken.begin(), taken.end(), char{0});
    for (std::int32_t k = 0; k < shape.topk;) {
      char& at = taken[random_id(taken.size(), spread, random)];
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

struct Blob {
  RecordEncoding encoding = RecordEncoding::raw;
  std::vector<std::byte> bytes;
};

struct State {
  IdShape shape;
  std::vector<std::vector<std::byte>> ids;
  std::vector<Blob> blobs;
  std::vector<std::byte> back;
  IdEncoder encoder;
  IdDecoder decoder;

  // encode(encoder, shape, ids) → IdEncoder::Result
  template <class Encode>
  State(std::int32_t experts, std::int32_t topk, Spread spread, Encode&& encode)
      : shape{experts, topk, SlotOrder::canonical, kSets}, back(kBlobs * shape.bytes()) {
    std::mt19937 random(1);
    for (std::size_t blob = 0; blob < kBlobs; ++blob) {
      ids.push_back(random_sets(shape, spread, random));
      const IdEncoder::Result result = encode(encoder, shape, ids.back().data());
      blobs.push_back({result.encoding, {result.bytes.begin(), result.bytes.end()}});
    }
  }
  double size() const {
    std::size_t sum = 0;
    for (const Blob& blob : blobs) sum += blob.bytes.size();
    return static_cast<double>(sum) / static_cast<double>(back.size());
  }
};

RecordWork work_of(const std::shared_ptr<State>& state) {
  const auto decode = [state] {
    for (std::size_t b = 0; b < kBlobs; ++b) {
      state->decoder.decode(state->blobs[b].encoding, state->shape, state->blobs[b].bytes, 0, kSets,
                            state->back.data() + b * state->shape.bytes());
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

}  // namespace

RecordWork make_decode_work(RecordEncoding encoding, std::int32_t experts, std::int32_t topk) {
  return work_of(std::make_shared<State>(experts, topk, Spread::even,
                                         [encoding](IdEncoder& encoder, const IdShape& shape, const void* ids) {
                                           return encoder.encode_as(encoding, shape, ids);
                                         }));
}

RecordWork make_decode_uneven_work() {
  return work_of(std::make_shared<State>(
      32, 4, Spread::uneven,
      [](IdEncoder& encoder, const IdShape& shape, const void* ids) { return encoder.encode(shape, ids); }));
}

}  // namespace switchyard::cli
