// Everything that `route` and `route_backward` refuse, with the whole message; and that nothing is written then.
#include <gtest/gtest.h>

#include "route_calls.hpp"

namespace {

using namespace route_calls;

std::string option_message(const std::function<void(RouterOptions&)>& spoil) {
  return forward_message([&](Call& call) { spoil(call.options); });
}

TEST(RouteErrors, WhatIsNotSpoiledIsAccepted) {
  Call call;
  EXPECT_EQ(message_of([&] { route(call.logits, call.options, call.inputs, call.outputs, call.workspace); }), "none");
  EXPECT_NE(call.ids, Call().ids);
  EXPECT_EQ(message_of([&] {
              route_backward(call.logits, call.options, call.inputs, call.gradients, call.dlogits, call.workspace);
            }),
            "none");
  EXPECT_EQ(call.dvalues, std::vector<float>(kTokens * kExperts, 0.0F));
}

TEST(RouteErrors, Logits) {
  const std::string expected =
      ", expected f32, bf16 or f16, 0..1099511627776 tokens, 1..65536 experts and a stride of at least the experts";
  EXPECT_EQ(forward_message([](Call& c) { c.logits.dtype = DType::f64; }),
            "route: found logits [3, 8] f64 with stride 8" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.stride = 7; }),
            "route: found logits [3, 8] f32 with stride 7" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.rows = -1; }),
            "route: found logits [-1, 8] f32 with stride 8" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.cols = c.logits.stride = kMaxExperts + 1; }),
            "route: found logits [3, 65537] f32 with stride 65537" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.cols = 0; }),
            "route: found logits [3, 0] f32 with stride 8" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.cols = -1; }),
            "route: found logits [3, -1] f32 with stride 8" + expected);
  EXPECT_EQ(forward_message([](Call& c) { c.logits.stride = std::int64_t{1} << 59; }),
            "route: logits has 3 rows with stride 576460752303423488, expected at most 2^60 elements");
  EXPECT_EQ(forward_message([](Call& c) { c.logits.data = nullptr; }),
            "route: logits have no data, expected memory for 3 tokens");
}

// −4294967288 experts are 8 in 32 bits.
TEST(RouteErrors, SizesThatOnlyFitAfterACast) {
  constexpr std::int64_t kFar = std::int64_t{8} - (std::int64_t{1} << 32);
  const std::string expected =
      ", expected f32, bf16 or f16, 0..1099511627776 tokens, 1..65536 experts and a stride of at least the experts";
  const auto far_cols = [](auto& matrix) { matrix.cols = kFar; };
  EXPECT_EQ(forward_message([&](Call& c) { far_cols(c.logits); }),
            "route: found logits [3, -4294967288] f32 with stride 8" + expected);
  EXPECT_EQ(backward_message([&](Call& c) {
              far_cols(c.logits);
              far_cols(c.dlogits);
            }),
            "route: found logits [3, -4294967288] f32 with stride 8" + expected);
  EXPECT_EQ(backward_message([&](Call& c) {
              c.logits.data = nullptr;
              c.gradients.chosen_logit = c.values.data();
              far_cols(c.dlogits);
            }),
            "route: found logits [3, -4294967288] f32 with stride -4294967288" + expected);
  EXPECT_EQ(backward_message([&](Call& c) { c.dlogits.stride = std::int64_t{1} << 59; }),
            "route: dlogits has 3 rows with stride 576460752303423488, expected at most 2^60 elements");
}

TEST(RouteErrors, Options) {
  EXPECT_EQ(option_message([](auto& o) { o.topk = 0; }), "route: found topk 0 for 8 experts, expected 1..8");
  EXPECT_EQ(option_message([](auto& o) { o.topk = 9; }), "route: found topk 9 for 8 experts, expected 1..8");
  EXPECT_EQ(option_message([](auto& o) { o.score = Score{5}; }), "route: found score 5, expected 0..4");
  EXPECT_EQ(option_message([](auto& o) { o.chosen = ChosenScore{3}; }), "route: found chosen 3, expected 0..2");
  EXPECT_EQ(option_message([](auto& o) { o.normalize = Normalize{-1}; }), "route: found normalize -1, expected 0..3");
  EXPECT_EQ(option_message([](auto& o) { o.order = Order{3}; }), "route: found order 3, expected 0..2");
  EXPECT_EQ(option_message([](auto& o) { o.epsilon = -1; }),
            "route: found epsilon -1 and scale 1, expected finite numbers and epsilon >= 0");
  EXPECT_EQ(option_message([](auto& o) { o.scale = kNan; }),
            "route: found epsilon 0 and scale nan, expected finite numbers and epsilon >= 0");
  EXPECT_EQ(option_message([](auto& o) { o.softcap = -2; }),
            "route: found softcap -2 and logit_scale 1, expected finite numbers and softcap >= 0");
  EXPECT_EQ(option_message([](auto& o) { o.logit_scale = kInf; }),
            "route: found softcap 0 and logit_scale inf, expected finite numbers and softcap >= 0");
  EXPECT_EQ(option_message([](auto& o) {
              o.normalize = Normalize::power_norm;
              o.power = 0;
            }),
            "route: found power 0, expected a finite number above 0");
  EXPECT_EQ(option_message([](auto& o) { o.chosen = ChosenScore::softmax; }),
            "route: found score sigmoid with a function of the chosen, expected score logit");
  EXPECT_EQ(option_message([](auto& o) {
              o.selection_bias = {&o, DType::i32};
            }),
            "route: selection_bias is i32, expected f32, bf16 or f16");
}

TEST(RouteErrors, Groups) {
  EXPECT_EQ(option_message([](auto& o) { o.groups = 3; }),
            "route: found 3 groups for 8 experts, expected 0..256 of equal size");
  EXPECT_EQ(option_message([](auto& o) { o.groups = -1; }),
            "route: found -1 groups for 8 experts, expected 0..256 of equal size");
  EXPECT_EQ(option_message([](auto& o) {
              o.groups = 1;
              o.kept_groups = 2;
            }),
            "route: found 2 kept groups of 8 experts for topk 2, expected 1..1 with enough experts");
  EXPECT_EQ(option_message([](auto& o) {
              o.topk = 3;
              o.groups = 4;
              o.kept_groups = 1;
            }),
            "route: found 1 kept groups of 2 experts for topk 3, expected 1..4 with enough experts");
  EXPECT_EQ(option_message([](auto& o) {
              o.groups = 4;
              o.kept_groups = 2;
              o.group_best = 3;
            }),
            "route: found group_best 3, expected 1..2");
}

TEST(RouteErrors, Sparsemixer) {
  const std::string expected = ", expected topk 2 and none of the others";
  EXPECT_EQ(option_message([](auto& o) { o = {.topk = 3, .score = Score::sparsemixer}; }),
            "route: found sparsemixer with topk 3, 0 groups, normalize 0" + expected);
  EXPECT_EQ(option_message([](auto& o) { o = {.topk = 2, .score = Score::sparsemixer, .normalize = Normalize::sum}; }),
            "route: found sparsemixer with topk 2, 0 groups, normalize 1" + expected);
  EXPECT_EQ(option_message([](auto& o) {
              o.score = Score::sparsemixer;
              o.selection_bias = {&o, DType::f32};
            }),
            "route: found sparsemixer with topk 2, 0 groups, normalize 0 and a selection bias" + expected);
  EXPECT_EQ(option_message([](auto& o) {
              o.score = Score::sparsemixer;
              o.jitter = -1;
            }),
            "route: found jitter -1, expected a finite number >= 0");
}

TEST(RouteErrors, Replay) {
  static const std::int32_t high[] = {0, 1, 2, 8, 4, 5};
  static const std::int32_t low[] = {0, -2, 2, 3, 4, 5};
  EXPECT_EQ(forward_message([](Call& c) {
              c.inputs.forced = {high, DType::i32};
            }),
            "route: forced row 1 slot 1 names expert 8, expected -1..7");
  EXPECT_EQ(forward_message([](Call& c) {
              c.inputs.forced = {low, DType::i32};
            }),
            "route: forced row 0 slot 1 names expert -2, expected -1..7");
  EXPECT_EQ(forward_message([](Call& c) {
              c.inputs.forced = {high, DType::u16};
            }),
            "route: forced is u16, expected i16, i32 or i64");
}

TEST(RouteErrors, Tables) {
  static const std::int16_t table[] = {0, 1, 2, 9};
  static const std::int32_t tokens[] = {0, 0, 1};
  static const std::int32_t beyond[] = {0, 2, 0};
  const auto with = [](Call& c, const std::int32_t* ids) {
    c.options.table = {table, DType::i16};
    c.options.table_rows = 2;
    c.inputs.token_id = {ids, DType::i32};
  };
  EXPECT_EQ(forward_message([&](Call& c) { with(c, nullptr); }),
            "route: found a table and no token_id, expected the ids of 3 tokens");
  EXPECT_EQ(forward_message([&](Call& c) { with(c, beyond); }),
            "route: token 1 has the id 2, expected 0..1 as the table's rows");
  EXPECT_EQ(forward_message([&](Call& c) { with(c, tokens); }),
            "route: table row 1 slot 1 names expert 9, expected 0..7");
  EXPECT_EQ(forward_message([&](Call& c) {
              with(c, tokens);
              c.inputs.token_id.dtype = DType::i16;
            }),
            "route: token_id is i16, expected i32 or i64");
  EXPECT_EQ(forward_message([&](Call& c) {
              with(c, tokens);
              c.options.table_rows = 0;
            }),
            "route: found a table of 0 rows, expected 1..1099511627776");
  EXPECT_EQ(forward_message([&](Call& c) {
              with(c, nullptr);
              c.inputs.forced = {c.chosen.data(), DType::i32};
            }),
            "route: found a table and no token_id, expected the ids of 3 tokens")
      << "for rows that are not there";
  EXPECT_EQ(forward_message([&](Call& c) {
              with(c, tokens);
              c.options.table.dtype = DType::u8;
            }),
            "route: table is u8, expected i16, i32 or i64");
}

TEST(RouteErrors, Sequences) {
  static const std::int64_t falling[] = {0, 2, 1, 3};
  static const std::int64_t shorter[] = {0, 1, 2};
  static const std::int64_t later[] = {1, 2, 3};
  const auto with = [](const std::int64_t* begin, std::int64_t count) {
    return [=](Call& c) {
      c.inputs.sequence_begin = begin;
      c.inputs.sequences = count;
    };
  };
  EXPECT_EQ(forward_message(with(falling, 3)), "route: sequence 1 is from 2 to 1, expected ascending borders");
  EXPECT_EQ(forward_message(with(shorter, 2)), "route: the sequences are from 0 to 2, expected 0 to 3 tokens");
  EXPECT_EQ(forward_message(with(later, 2)), "route: the sequences are from 1 to 3, expected 0 to 3 tokens");
  EXPECT_EQ(forward_message(with(shorter, 0)), "route: found 0 sequences, expected 1..1099511627776");
  EXPECT_EQ(backward_message(with(falling, 3)), "route: sequence 1 is from 2 to 1, expected ascending borders");
}

TEST(RouteErrors, Outputs) {
  EXPECT_EQ(forward_message([](Call& c) { c.outputs.expert.dtype = DType::f32; }),
            "route: expert is f32, expected i16, i32 or i64");
  EXPECT_EQ(forward_message([](Call& c) {
              c.outputs.weight = {c.cutoffs.data(), DType::f64};
            }),
            "route: weight is f64, expected f32, bf16 or f16");
  EXPECT_EQ(forward_message([](Call& c) {
              c.outputs.probability = {c.cutoffs.data(), DType::u8};
            }),
            "route: probability is u8, expected f32, bf16 or f16");
  const std::vector<float> wide(40000);
  EXPECT_EQ(forward_message([&](Call& c) {
              c.logits = {wide.data(), 1, 40000};
              c.outputs.expert.dtype = DType::i16;
            }),
            "route: expert is i16 for 40000 experts, expected at most 32768");
}

TEST(RouteErrors, Quantiles) {
  const auto histogram = [](Call& c, std::int32_t bins, float lower, float upper) {
    c.outputs.histogram = c.bins.data();
    c.outputs.bins = bins;
    c.outputs.qb_lower = lower;
    c.outputs.qb_upper = upper;
  };
  const std::string expected = ", expected topk below the experts, no groups and no given ids";
  EXPECT_EQ(forward_message([](Call& c) {
              c.options.topk = 8;
              c.outputs.cutoff = c.cutoffs.data();
            }),
            "route: found a cutoff or histogram with topk 8 of 8 experts, 0 groups" + expected);
  EXPECT_EQ(forward_message([](Call& c) {
              c.options.groups = 4;
              c.options.kept_groups = 2;
              c.outputs.cutoff = c.cutoffs.data();
            }),
            "route: found a cutoff or histogram with topk 2 of 8 experts, 4 groups" + expected);
  EXPECT_EQ(forward_message([](Call& c) {
              c.inputs.forced = {c.chosen.data(), DType::i32};
              c.outputs.cutoff = c.cutoffs.data();
            }),
            "route: found a cutoff or histogram with topk 2 of 8 experts, 0 groups and given ids" + expected);
  EXPECT_EQ(forward_message([&](Call& c) {
              c.options.score = Score::softmax;
              histogram(c, 4, 0, 1);
            }),
            "route: found a histogram with score softmax, expected a score of each expert alone");
  EXPECT_EQ(forward_message([&](Call& c) { histogram(c, 0, 0, 1); }),
            "route: found 0 bins from 0 to 1, expected 1..1048576 and finite ascending bounds");
  EXPECT_EQ(forward_message([&](Call& c) { histogram(c, 4, 1, 1); }),
            "route: found 4 bins from 1 to 1, expected 1..1048576 and finite ascending bounds");
  EXPECT_EQ(forward_message([&](Call& c) { histogram(c, 4, kNan, 1); }),
            "route: found 4 bins from nan to 1, expected 1..1048576 and finite ascending bounds");
}

TEST(RouteErrors, Workspaces) {
  const std::size_t needed = route_workspace_bytes(kTokens, kExperts);
  const std::string message = "route: found a workspace of " + std::to_string(needed - kWorkspaceAlignment) +
                              " bytes, expected at least " + std::to_string(needed);
  const auto shrink = [&](Call& c) { c.workspace = Workspace(needed - kWorkspaceAlignment); };
  EXPECT_EQ(forward_message(shrink), message);
  EXPECT_EQ(backward_message(shrink), message);
  const auto sizes = [](std::int64_t tokens, std::int32_t experts, std::int64_t sequences) {
    return message_of([=] { route_workspace_bytes(tokens, experts, sequences); });
  };
  const std::string expected = " sequences, expected 0..1099511627776, 1..65536 and 1..1099511627776";
  EXPECT_EQ(sizes(-1, 8, 1), "route: found -1 tokens, 8 experts and 1" + expected);
  EXPECT_EQ(sizes(1, 65537, 1), "route: found 1 tokens, 65537 experts and 1" + expected);
  EXPECT_EQ(sizes(1, 8, 0), "route: found 1 tokens, 8 experts and 0" + expected);
}

TEST(RouteErrors, Gradients) {
  EXPECT_EQ(backward_message([](Call& c) { c.dlogits.cols = 7; }), "route: found dlogits [3, 7], expected [3, 8]");
  EXPECT_EQ(backward_message([](Call& c) { c.dlogits.dtype = DType::f64; }),
            "route: dlogits is f64, expected f32, bf16 or f16");
  EXPECT_EQ(backward_message([](Call& c) { c.dlogits.stride = 5; }),
            "route: found dlogits with stride 5, expected memory and a stride of at least 8");
  EXPECT_EQ(backward_message([](Call& c) { c.dlogits.data = nullptr; }),
            "route: found dlogits with stride 8 and no data, expected memory and a stride of at least 8");
  EXPECT_EQ(backward_message([](Call& c) {
              c.gradients.weight = {c.cutoffs.data(), DType::f64};
            }),
            "route: gradient of weight is f64, expected f32, bf16 or f16");
  EXPECT_EQ(backward_message([](Call& c) {
              c.gradients.probability = {c.cutoffs.data(), DType::i8};
            }),
            "route: gradient of probability is i8, expected f32, bf16 or f16");
  EXPECT_EQ(backward_message([](Call& c) { c.gradients.z = kInf; }),
            "route: found a gradient of z of inf, expected a finite number");
  EXPECT_EQ(backward_message([](Call& c) { c.gradients.expert = {}; }),
            "route: found a gradient without expert, expected what route gave");
  EXPECT_EQ(backward_message([](Call& c) { c.gradients.expert.dtype = DType::u16; }),
            "route: expert is u16, expected i16, i32 or i64");
  EXPECT_EQ(backward_message([](Call& c) { c.chosen[3] = 8; }),
            "route: expert row 1 slot 1 names expert 8, expected -1..7");
  EXPECT_EQ(backward_message([](Call& c) { c.options.topk = 9; }), "route: found topk 9 for 8 experts, expected 1..8");
}

TEST(RouteErrors, MissingLogits) {
  EXPECT_EQ(backward_message([](Call& c) { c.logits.data = nullptr; }),
            "route: found no logits, expected them or the chosen ones");
  const std::string dense = "route: found no logits, expected them for a gradient that is not sparse";
  const auto chosen_only = [](Call& c) {
    c.logits.data = nullptr;
    c.gradients.chosen_logit = c.values.data();
  };
  EXPECT_EQ(backward_message([&](Call& c) {
              chosen_only(c);
              c.options.score = Score::softmax;
            }),
            dense);
  EXPECT_EQ(backward_message([&](Call& c) {
              chosen_only(c);
              c.gradients.aux = c.values.data();
            }),
            dense);
  EXPECT_EQ(backward_message([&](Call& c) {
              chosen_only(c);
              c.gradients.z = 1;
            }),
            dense);
}

}  // namespace
