#include "checkpoint/fingerprint.hpp"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace switchyard {
namespace {

constexpr std::size_t kSample = 4096;
constexpr std::size_t kSampleDistance = std::size_t{16} << 20;

// Lengths before contents, so that what stands side by side cannot be cut in another way.
class Digest {
 public:
  Digest() { XXH3_128bits_reset(&state_); }
  void add(const void* data, std::size_t bytes) {
    XXH3_128bits_update(&state_, &bytes, sizeof bytes);
    XXH3_128bits_update(&state_, data, bytes);
  }
  Fingerprint value() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_);
    return {hash.low64, hash.high64};
  }

 private:
  XXH3_state_t state_;
};

void add_samples(Digest& digest, const Tensor& tensor) {
  if (tensor.bytes <= kSample) {
    digest.add(tensor.data, tensor.bytes);
    return;
  }
  for (std::size_t at = 0; at < tensor.bytes - kSample; at += kSampleDistance) {
    digest.add(tensor.data + at, kSample);
  }
  digest.add(tensor.data + tensor.bytes - kSample, kSample);
}

}  // namespace

Fingerprint fingerprint(std::string_view config, const TensorFile& file, std::int32_t layer,
                        std::span<const Tensor* const> tensors) {
  Digest digest;
  digest.add(config.data(), config.size());
  digest.add(&layer, sizeof layer);
  for (const FileState& state : file.files()) {
    digest.add(&state.bytes, sizeof state.bytes);
    digest.add(&state.modified_ns, sizeof state.modified_ns);
  }
  for (const Tensor* tensor : tensors) {
    digest.add(tensor->name.data(), tensor->name.size());
    digest.add(&tensor->dtype, sizeof tensor->dtype);
    digest.add(tensor->shape.data(), tensor->shape.size() * sizeof(std::int64_t));
    add_samples(digest, *tensor);
  }
  return digest.value();
}

}  // namespace switchyard
