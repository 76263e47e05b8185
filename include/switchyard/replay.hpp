// Replay: exported rows on their way into the router of a trainer.
#pragma once

#include <cstdint>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/route.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// A micro-batch as export_rows wrote it. Not owned.
struct ReplayRows {
  ConstArray ids;                        // [layers,rows,K] i16, i32 or i64
  const std::uint8_t* states = nullptr;  // [rows] ReplayState, or null: all rows are replayed
  std::int64_t rows = 0;
};

// A layer is routed forward, and once more if its activations are recomputed for the backward.
enum class ReplayPass : std::int32_t { forward = 0, recompute = 1 };

// Hands every layer its micro-batches one after the other, to each pass on its own: any interleaving of layers, forwards
// and recomputations works that takes the micro-batches of a layer in order. For one thread.
class SWITCHYARD_API Replay {
 public:
  // Global indices of the layers in the order of the ids; K. Throws invalid_argument.
  Replay(std::vector<std::int32_t> layers, std::int32_t topk);

  // Appends a micro-batch, whose memory has to stay. Throws invalid_argument.
  void add(const ReplayRows& rows);

  // What `route` or Layer::forward takes for the next micro-batch of this layer: forced ids and which rows of them count;
  // other rows are routed live. Throws invalid_argument, and takes nothing: if the layer is not there, all of its
  // micro-batches were taken, the micro-batch has other than `tokens` rows, or a recomputation would overtake the
  // forward.
  RouteInputs take(ReplayPass pass, std::int32_t layer, std::int64_t tokens);

  std::int64_t micro_batches() const noexcept { return static_cast<std::int64_t>(rows_.size()); }
  // Micro-batches that this pass has not taken, of all layers.
  std::int64_t left(ReplayPass pass) const noexcept;
  // Throws mismatch, naming layer and numbers, if it has not taken all of them: some layer was not replayed.
  void check_consumed(ReplayPass pass) const;

  void rewind(ReplayPass pass) noexcept;  // from the first micro-batch again
  void clear() noexcept;                  // no micro-batches

 private:
  std::vector<std::int32_t> layers_;
  std::int32_t topk_;
  std::vector<ReplayRows> rows_;
  std::vector<std::int64_t> taken_[2];  // [pass][layers] micro-batches
};

// How far live routing has drifted from what is replayed. Sums: add those of layers and batches.
struct RouteOverlap {
  std::int64_t rows = 0;    // that were compared
  std::int64_t shared = 0;  // experts that both have, over all rows
  std::int64_t equal = 0;   // rows in which both have the same experts

  double mean_shared() const noexcept;     // of K; 0 without rows
  double equal_fraction() const noexcept;  // 0 without rows
  RouteOverlap& operator+=(const RouteOverlap& other) noexcept;
};

// live, replayed [tokens,K] i16, i32 or i64: what `route` gives without forced ids, and what it is forced to. Rows whose
// state is 0 (null: none) and those with a negative id on either side are left out. Throws invalid_argument.
SWITCHYARD_API RouteOverlap route_overlap(ConstArray live, ConstArray replayed, std::int64_t tokens, std::int32_t topk,
                                          const std::uint8_t* states = nullptr);

}  // namespace switchyard
