#include "switchyard/capture.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "fail.hpp"
#include "record/ids.hpp"

namespace switchyard {
namespace {

// Rows of one block: few enough for short sequences, enough that looking one up costs nothing.
constexpr std::int64_t kBlockRows = 256;

struct Block {
  std::unique_ptr<std::byte[]> ids;       // [kBlockRows,L,K]
  std::unique_ptr<std::uint64_t[]> seen;  // [kBlockRows,⌈L/64⌉] bits of layers
};

struct Sequence {
  std::int64_t rows = 0;
  std::map<std::int64_t, Block> blocks;  // by position / kBlockRows
};

// Positions of a span that lie in one block, up to `end`, from `token` of the batch on.
struct Piece {
  Sequence* sequence;
  Block* block;
  std::int64_t end;
  std::int64_t row;
  std::int64_t rows;
  std::int64_t token;
};

}  // namespace

struct Capture::Impl {
  RecordSchema schema;
  std::size_t row_bytes;
  std::size_t words;  // of the bits of a row
  std::unordered_map<std::int64_t, Sequence> sequences;
  std::vector<Piece> pieces;  // of the append that runs

  std::size_t block_bytes() const { return kBlockRows * (row_bytes + words * sizeof(std::uint64_t)); }

  Block& block(Sequence& sequence, std::int64_t index) {
    const auto found = sequence.blocks.find(index);
    if (found != sequence.blocks.end()) return found->second;
    Block made;
    made.ids = std::make_unique_for_overwrite<std::byte[]>(kBlockRows * row_bytes);
    made.seen = std::make_unique<std::uint64_t[]>(kBlockRows * words);
    return sequence.blocks.emplace(index, std::move(made)).first->second;
  }

  const Sequence& checked(std::int64_t sequence) const {
    const auto found = sequences.find(sequence);
    if (found == sequences.end()) {
      fail(Code::invalid_argument, "capture: found sequence {}, expected one of the {} that are captured", sequence,
           sequences.size());
    }
    return found->second;
  }

  bool is_complete(const Block& block, std::int64_t row) const {
    const std::uint64_t* seen = block.seen.get() + static_cast<std::size_t>(row) * words;
    const std::size_t layers = schema.layers.size();
    for (std::size_t w = 0; w < words; ++w) {
      const std::size_t bits = std::min<std::size_t>(64, layers - w * 64);
      const std::uint64_t all = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
      if (seen[w] != all) return false;
    }
    return true;
  }

  void check(std::int32_t layer, const Routing& routing, std::span<const CaptureSpan> spans) const;
  // `layer_begin`: bytes of a row before the layer's ids.
  void find_pieces(std::span<const CaptureSpan> spans, std::size_t layer_begin);
  void write(const Piece& piece, std::size_t layer, const Routing& routing);
};

void Capture::Impl::check(std::int32_t layer, const Routing& routing, std::span<const CaptureSpan> spans) const {
  if (!std::binary_search(schema.layers.begin(), schema.layers.end(), layer)) {
    fail(Code::invalid_argument, "capture: found layer {}, expected one of the schema's {}", layer,
         schema.layers.size());
  }
  if (routing.topk != schema.topk || routing.tokens < 0 || (routing.tokens > 0 && routing.expert == nullptr)) {
    fail(Code::invalid_argument, "capture: layer {} routed {} tokens to {} experts {} ids, expected {} and ids", layer,
         routing.tokens, routing.topk, routing.expert == nullptr ? "without" : "with", schema.topk);
  }
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const CaptureSpan& span = spans[i];
    if (span.tokens < 0 || span.tokens > kMaxTokens || span.position < 0 || span.position > kMaxTokens) {
      fail(Code::invalid_argument, "capture: span {} has {} tokens from position {}, expected 0..{} of each", i,
           span.tokens, span.position, kMaxTokens);
    }
    tokens += span.tokens;
    if (tokens > routing.tokens) break;
  }
  if (tokens != routing.tokens) {
    fail(Code::invalid_argument, "capture: spans have {} tokens, expected the {} that layer {} routed", tokens,
         routing.tokens, layer);
  }
  std::int64_t token = 0;
  for (const CaptureSpan& span : spans) {
    for (std::int64_t at = token * schema.topk; span.sequence >= 0 && at < (token + span.tokens) * schema.topk; ++at) {
      if (routing.expert[at] < -1 || routing.expert[at] >= schema.experts) {
        fail(Code::bad_data, "capture: layer {} token {} slot {} names expert {}, expected -1..{}", layer,
             at / schema.topk, at % schema.topk, routing.expert[at], schema.experts - 1);
      }
    }
    token += span.tokens;
  }
}

void Capture::Impl::find_pieces(std::span<const CaptureSpan> spans, std::size_t layer_begin) {
  pieces.clear();
  std::int64_t token = 0;
  for (const CaptureSpan& span : spans) {
    for (std::int64_t done = 0; span.sequence >= 0 && done < span.tokens;) {
      const std::int64_t position = span.position + done;
      const std::int64_t row = position % kBlockRows;
      const std::int64_t rows = std::min(kBlockRows - row, span.tokens - done);
      Sequence& sequence = sequences[span.sequence];
      Block& in = block(sequence, position / kBlockRows);
      // A forward has passed through the caches since these were touched; all of them are on their way at once.
      __builtin_prefetch(in.ids.get() + static_cast<std::size_t>(row) * row_bytes + layer_begin, 1);
      __builtin_prefetch(in.seen.get() + static_cast<std::size_t>(row) * words, 1);
      pieces.push_back({&sequence, &in, position + rows, row, rows, token + done});
      done += rows;
    }
    token += span.tokens;
  }
}

void Capture::Impl::write(const Piece& piece, std::size_t layer, const Routing& routing) {
  const auto topk = static_cast<std::size_t>(schema.topk);
  const std::size_t row_ids = schema.layers.size() * topk;
  const std::uint64_t bit = std::uint64_t{1} << (layer % 64);
  with_ids(schema, static_cast<void*>(piece.block->ids.get()), [&](auto* ids) {
    using Id = std::remove_pointer_t<decltype(ids)>;
    auto* to = ids + static_cast<std::size_t>(piece.row) * row_ids + layer * topk;
    const std::int32_t* from = routing.expert + piece.token * schema.topk;
    std::uint64_t* seen = piece.block->seen.get() + static_cast<std::size_t>(piece.row) * words;
    for (std::int64_t r = 0; r < piece.rows; ++r, to += row_ids, from += topk, seen += words) {
      std::int32_t all = 0;
      for (std::size_t s = 0; s < topk; ++s) {
        all |= from[s];
        to[s] = static_cast<Id>(from[s]);
      }
      if ((seen[layer / 64] & bit) != 0) std::fill_n(seen, words, 0);
      if (all < 0) continue;  // a slot is off
      if (schema.order == SlotOrder::canonical) std::sort(to, to + topk);
      seen[layer / 64] |= bit;
    }
  });
}

Capture::Capture(RecordSchema schema) {
  check_schema(schema);
  const std::size_t row_bytes = record_row_bytes(schema);
  const std::size_t words = (schema.layers.size() + 63) / 64;
  impl_ = std::make_unique<Impl>(Impl{std::move(schema), row_bytes, words, {}, {}});
}

Capture::~Capture() = default;
Capture::Capture(Capture&&) noexcept = default;
Capture& Capture::operator=(Capture&&) noexcept = default;

const RecordSchema& Capture::schema() const noexcept { return impl_->schema; }

void Capture::reserve(std::int64_t sequence, std::int64_t rows) {
  if (sequence < 0 || rows < 0 || rows > kMaxTokens) {
    fail(Code::invalid_argument, "capture: found {} rows for sequence {}, expected 0..{} and a sequence of 0 or more",
         rows, sequence, kMaxTokens);
  }
  Sequence& reserved = impl_->sequences[sequence];
  for (std::int64_t first = 0; first < rows; first += kBlockRows) impl_->block(reserved, first / kBlockRows);
}

void Capture::append(std::int32_t layer, const Routing& routing, std::span<const CaptureSpan> spans) {
  impl_->check(layer, routing, spans);
  const std::vector<std::int32_t>& layers = impl_->schema.layers;
  const auto index = static_cast<std::size_t>(std::lower_bound(layers.begin(), layers.end(), layer) - layers.begin());
  impl_->find_pieces(spans, index * impl_->row_bytes / layers.size());
  for (const Piece& piece : impl_->pieces) {
    impl_->write(piece, index, routing);
    piece.sequence->rows = std::max(piece.sequence->rows, piece.end);
  }
}

std::vector<std::int64_t> Capture::sequences() const {
  std::vector<std::int64_t> ids;
  for (const auto& [id, sequence] : impl_->sequences) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

RecordRows Capture::rows(std::int64_t sequence) const {
  const Sequence& captured = impl_->checked(sequence);
  RecordRows rows;
  rows.source.rows = captured.rows;
  rows.source.read = [this_ = impl_.get(), &captured](std::int64_t begin, std::int64_t end, void* to) {
    auto* out = static_cast<std::byte*>(to);
    while (begin < end) {
      const std::int64_t row = begin % kBlockRows;
      const std::int64_t count = std::min(kBlockRows - row, end - begin);
      const std::byte* ids = captured.blocks.at(begin / kBlockRows).ids.get();
      const auto bytes = static_cast<std::size_t>(count) * this_->row_bytes;
      ids += static_cast<std::size_t>(row) * this_->row_bytes;
      check_rows(this_->schema, ids, count, begin);
      std::memcpy(out, ids, bytes);
      out += bytes;
      begin += count;
    }
  };
  rows.observed.resize(static_cast<std::size_t>(captured.rows));
  for (const auto& [index, block] : captured.blocks) {
    const std::int64_t first = index * kBlockRows;
    for (std::int64_t r = 0; r < std::min(kBlockRows, captured.rows - first); ++r) {
      rows.observed[static_cast<std::size_t>(first + r)] = impl_->is_complete(block, r) ? 1 : 0;
    }
  }
  return rows;
}

void Capture::forget(std::int64_t sequence) {
  impl_->checked(sequence);
  impl_->sequences.erase(sequence);
}

std::size_t Capture::bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [id, sequence] : impl_->sequences) bytes += sequence.blocks.size() * impl_->block_bytes();
  return bytes;
}

}  // namespace switchyard
