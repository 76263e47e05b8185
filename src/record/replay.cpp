#include "switchyard/replay.hpp"

#include <algorithm>
#include <array>

#include "fail.hpp"
#include "route/router.hpp"

namespace switchyard {
namespace {

const char* pass_name(ReplayPass pass) { return pass == ReplayPass::forward ? "forward" : "recompute"; }

std::size_t index_of(ReplayPass pass) { return pass == ReplayPass::forward ? 0 : 1; }

bool is_id_type(DType dtype) { return dtype == DType::i16 || dtype == DType::i32 || dtype == DType::i64; }

void check_topk(std::int32_t topk) {
  if (topk < 1 || topk > kMaxTopk) {
    fail(Code::invalid_argument, "replay: found topk {}, expected 1..{}", topk, kMaxTopk);
  }
}

void check_ids(const ConstArray& ids, std::int64_t rows) {
  if (rows < 0 || rows > kMaxTokens || (rows > 0 && ids.data == nullptr)) {
    fail(Code::invalid_argument, "replay: found {} rows {} ids, expected 0..{} with them", rows,
         ids.data == nullptr ? "without" : "with", kMaxTokens);
  }
  if (!is_id_type(ids.dtype)) {
    fail(Code::invalid_argument, "replay: found {} ids, expected i16, i32 or i64, which the router takes",
         dtype_name(ids.dtype));
  }
}

using Set = std::array<std::int64_t, kMaxTopk>;

// The distinct ids of a row, ascending, or none if one is negative.
std::int64_t read_set(const ConstArray& ids, std::int64_t row, std::int32_t topk, Set& set) {
  for (std::int32_t s = 0; s < topk; ++s) {
    set[static_cast<std::size_t>(s)] = read_id(ids, row * topk + s);
    if (set[static_cast<std::size_t>(s)] < 0) return 0;
  }
  std::sort(set.begin(), set.begin() + topk);
  return std::unique(set.begin(), set.begin() + topk) - set.begin();
}

std::int64_t count_shared(const Set& a, std::int64_t a_count, const Set& b, std::int64_t b_count) {
  return std::count_if(a.begin(), a.begin() + a_count,
                       [&](std::int64_t id) { return std::binary_search(b.begin(), b.begin() + b_count, id); });
}

}  // namespace

Replay::Replay(std::vector<std::int32_t> layers, std::int32_t topk) : layers_(std::move(layers)), topk_(topk) {
  check_topk(topk);
  std::vector<std::int32_t> sorted(layers_);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) fail(Code::invalid_argument, "replay: found layer {} twice, expected it once", *twice);
  for (auto& taken : taken_) taken.resize(layers_.size());
}

void Replay::add(const ReplayRows& rows) {
  check_ids(rows.ids, rows.rows);
  rows_.push_back(rows);
}

RouteInputs Replay::take(ReplayPass pass, std::int32_t layer, std::int64_t tokens) {
  const auto found = std::find(layers_.begin(), layers_.end(), layer);
  if (found == layers_.end()) {
    fail(Code::invalid_argument, "replay: layer {} takes rows, expected one of the {} layers that were exported", layer,
         layers_.size());
  }
  const auto l = static_cast<std::size_t>(found - layers_.begin());
  std::int64_t& taken = taken_[index_of(pass)][l];
  if (taken >= micro_batches()) {
    fail(Code::invalid_argument, "replay: layer {} takes micro-batch {} in its {} pass, expected at most {} of them",
         layer, taken, pass_name(pass), micro_batches());
  }
  if (pass == ReplayPass::recompute && taken >= taken_[index_of(ReplayPass::forward)][l]) {
    fail(Code::invalid_argument, "replay: layer {} recomputes micro-batch {}, expected its forward before", layer,
         taken);
  }
  const ReplayRows& rows = rows_[static_cast<std::size_t>(taken)];
  if (tokens != rows.rows) {
    fail(Code::invalid_argument, "replay: layer {} has {} tokens in micro-batch {}, expected its {} rows", layer,
         tokens, taken, rows.rows);
  }
  ++taken;
  RouteInputs inputs;
  const std::size_t before = l * static_cast<std::size_t>(rows.rows * topk_) * dtype_bytes(rows.ids.dtype);
  // Without rows there are no ids either, and nothing is forced.
  if (rows.rows > 0) inputs.forced = {static_cast<const std::byte*>(rows.ids.data) + before, rows.ids.dtype};
  inputs.replayed = rows.states;
  return inputs;
}

std::int64_t Replay::left(ReplayPass pass) const noexcept {
  std::int64_t left = 0;
  for (const std::int64_t taken : taken_[index_of(pass)]) left += micro_batches() - taken;
  return left;
}

void Replay::check_consumed(ReplayPass pass) const {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const std::int64_t taken = taken_[index_of(pass)][l];
    if (taken != micro_batches()) {
      fail(Code::mismatch, "replay: layer {} took {} micro-batches in its {} pass, expected {}", layers_[l], taken,
           pass_name(pass), micro_batches());
    }
  }
}

void Replay::rewind(ReplayPass pass) noexcept {
  std::fill(taken_[index_of(pass)].begin(), taken_[index_of(pass)].end(), 0);
}

void Replay::clear() noexcept {
  rows_.clear();
  rewind(ReplayPass::forward);
  rewind(ReplayPass::recompute);
}

double RouteOverlap::mean_shared() const noexcept {
  return rows == 0 ? 0 : static_cast<double>(shared) / static_cast<double>(rows);
}

double RouteOverlap::equal_fraction() const noexcept {
  return rows == 0 ? 0 : static_cast<double>(equal) / static_cast<double>(rows);
}

RouteOverlap& RouteOverlap::operator+=(const RouteOverlap& other) noexcept {
  rows += other.rows;
  shared += other.shared;
  equal += other.equal;
  return *this;
}

RouteOverlap route_overlap(ConstArray live, ConstArray replayed, std::int64_t tokens, std::int32_t topk,
                           const std::uint8_t* states) {
  check_topk(topk);
  check_ids(live, tokens);
  check_ids(replayed, tokens);
  RouteOverlap overlap;
  Set a;
  Set b;
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (states != nullptr && states[t] == 0) continue;
    const std::int64_t a_count = read_set(live, t, topk, a);
    const std::int64_t b_count = read_set(replayed, t, topk, b);
    if (a_count == 0 || b_count == 0) continue;
    const std::int64_t shared = count_shared(a, a_count, b, b_count);
    ++overlap.rows;
    overlap.shared += shared;
    overlap.equal += shared == a_count && shared == b_count ? 1 : 0;
  }
  return overlap;
}

}  // namespace switchyard
