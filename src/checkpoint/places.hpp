// Names of the tensors of MoE layers, as released and as transformers 5 writes them again. Included by the family table
// alone.
#pragma once

#include "checkpoint/families.hpp"

namespace switchyard::places {

// A changed copy.
template <class Row, class Change>
constexpr Row with(Row row, Change change) {
  change(row);
  return row;
}

// ---- routed experts

inline constexpr ExpertLayout kProj = {
    .label = "per expert, gate_proj/up_proj/down_proj [out,in]",
    .gate = "{block}experts.{expert}.gate_proj.weight",
    .up = "{block}experts.{expert}.up_proj.weight",
    .down = "{block}experts.{expert}.down_proj.weight",
};
inline constexpr ExpertLayout kW = {
    .label = "per expert, w1/w3/w2 [out,in]",
    .gate = "{block}experts.{expert}.w1.weight",
    .up = "{block}experts.{expert}.w3.weight",
    .down = "{block}experts.{expert}.w2.weight",
};
inline constexpr ExpertLayout kUpDown = {
    .label = "per expert, up_proj/down_proj [out,in]",
    .up = kProj.up,
    .down = kProj.down,
};
// What transformers 5 writes for every family that it does not convert back.
inline constexpr ExpertLayout kFused = {
    .label = "fused, gate_up_proj/down_proj [out,in]",
    .gate = "{block}experts.gate_up_proj",
    .down = "{block}experts.down_proj",
    .storage = Storage::stacked,
};
inline constexpr ExpertLayout kUpDownStacked = {
    .label = "stacked, up_proj/down_proj [out,in]",
    .up = "{block}experts.up_proj",
    .down = kFused.down,
    .storage = Storage::stacked,
};
inline constexpr ExpertLayout kFusedInOut = with(kFused, [](ExpertLayout& layout) {
  layout.label = "fused, gate_up_proj/down_proj [in,out]";
  layout.orientation = layout.down_orientation = Orientation::in_out;
});
inline constexpr ExpertLayout kFusedInOutBias = with(kFusedInOut, [](ExpertLayout& layout) {
  layout.label = "fused, gate_up_proj/down_proj [in,out] with biases";
  layout.gate_bias = "{block}experts.gate_up_proj_bias";
  layout.down_bias = "{block}experts.down_proj_bias";
});
inline constexpr ExpertLayout kInterleavedInOutBias = with(kFusedInOutBias, [](ExpertLayout& layout) {
  layout.label = "fused, interleaved gate_up_proj/down_proj [in,out] with biases";
  layout.fusion = Fusion::interleaved;
});
// The form with mxfp4 blocks.
inline constexpr ExpertLayout kInterleavedBias = with(kInterleavedInOutBias, [](ExpertLayout& layout) {
  layout.label = "fused, interleaved gate_up_proj/down_proj [out,in] with biases";
  layout.orientation = layout.down_orientation = Orientation::out_in;
});
inline constexpr ExpertLayout kFcInOut = with(kFusedInOut, [](ExpertLayout& layout) {
  layout.label = "fused, fc1/fc2 [in,out]";
  layout.gate = "{block}experts.fc1.weight";
  layout.down = "{block}experts.fc2.weight";
});
inline constexpr ExpertLayout kLinear = with(kFused, [](ExpertLayout& layout) {
  layout.label = "fused, input_linear/output_linear [out,in]";
  layout.gate = "{block}input_linear.weight";
  layout.down = "{block}output_linear.weight";
});
inline constexpr ExpertLayout kInterleavedW = with(kFused, [](ExpertLayout& layout) {
  layout.label = "fused, interleaved w13_weight/w2_weight [out,in]";
  layout.gate = "{block}experts.w13_weight";
  layout.down = "{block}experts.w2_weight";
  layout.fusion = Fusion::interleaved;
});
inline constexpr ExpertLayout kStackedProj = {
    .label = "stacked, gate_proj/up_proj/down_proj [out,in]",
    .gate = "{block}gate_proj.weight",
    .up = "{block}up_proj.weight",
    .down = "{block}down_proj.weight",
    .storage = Storage::stacked,
};
inline constexpr ExpertLayout kFlattened = {
    .label = "flattened, w1/v1 [out,in], w2 [in,out]",
    .gate = "{block}experts.mlp.w1",
    .up = "{block}experts.mlp.v1",
    .down = "{block}experts.mlp.w2",
    .storage = Storage::flattened,
    .down_orientation = Orientation::in_out,
};

// ---- the shared expert

inline constexpr ExpertLayout kSharedExperts = {
    .gate = "{block}shared_experts.gate_proj.weight",
    .up = "{block}shared_experts.up_proj.weight",
    .down = "{block}shared_experts.down_proj.weight",
};
inline constexpr ExpertLayout kSharedExpert = {
    .gate = "{block}shared_expert.gate_proj.weight",
    .up = "{block}shared_expert.up_proj.weight",
    .down = "{block}shared_expert.down_proj.weight",
};
inline constexpr ExpertLayout kSharedUpDown = with(kSharedExperts, [](ExpertLayout& layout) { layout.gate = nullptr; });
inline constexpr ExpertLayout kSharedFused = {
    .gate = "{block}shared_experts.gate_up_proj.weight",
    .down = kSharedExperts.down,
};
inline constexpr ExpertLayout kSharedLinearGate =
    with(kSharedExperts, [](ExpertLayout& layout) { layout.gate = "{block}shared_experts.linear_gate.weight"; });
inline constexpr ExpertLayout kSharedW = {
    .gate = "{block}shared_experts.w1.weight",
    .up = "{block}shared_experts.w3.weight",
    .down = "{block}shared_experts.w2.weight",
};
inline constexpr ExpertLayout kSharedMlp = {
    .gate = "{block}shared_mlp.gate_proj.weight",
    .up = "{block}shared_mlp.up_proj.weight",
    .down = "{block}shared_mlp.down_proj.weight",
};
// Beside the block.
inline constexpr ExpertLayout kShareExpert = {
    .gate = "share_expert.gate_proj.weight",
    .up = "share_expert.up_proj.weight",
    .down = "share_expert.down_proj.weight",
};

// ---- whole blocks

inline constexpr Place kMlpProj = {.experts = &kProj, .shared = &kSharedExperts};
inline constexpr Place kMlpFused = {.experts = &kFused, .shared = &kSharedExperts};
inline constexpr Place kSparseW = {.block = "block_sparse_moe.", .experts = &kW};
inline constexpr Place kSparseLinear = {
    .block = "block_sparse_moe.",
    .experts = &kLinear,
    .router = "{block}router.layer.weight",
};
inline constexpr Place kSparseFused = {
    .block = "block_sparse_moe.",
    .experts = &kFused,
    .router = "{block}router.weight",
};

}  // namespace switchyard::places
