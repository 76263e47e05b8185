// A call of `route` and `route_backward` that is right, to be spoilt, and what is thrown then.
#pragma once

#include <array>
#include <functional>
#include <string>

#include "route_runs.hpp"
#include "switchyard/error.hpp"

namespace route_calls {

using namespace route_runs;

constexpr std::int64_t kTokens = 3;
constexpr std::int64_t kExperts = 8;

// A call that is right in everything until a test spoils something.
struct Call {
  std::vector<float> values = random_floats(kTokens * kExperts, 1.0F, 1);
  ConstMatrix logits{values.data(), kTokens, kExperts};
  RouterOptions options{.topk = 2, .score = Score::sigmoid};
  RouteInputs inputs;
  std::array<std::int64_t, kTokens * 2> ids{-7, -7, -7, -7, -7, -7};
  std::array<float, kTokens> cutoffs{};
  std::array<std::int32_t, kExperts * 4> bins{};
  RouteOutputs outputs;
  std::array<std::int32_t, kTokens * 2> chosen{0, 1, 2, 3, 4, 5};
  RouteGradients gradients;
  std::vector<float> dvalues = std::vector<float>(kTokens * kExperts, 7.0F);
  Matrix dlogits{dvalues.data(), kTokens, kExperts};
  Workspace workspace{route_workspace_bytes(kTokens, kExperts)};

  Call() {
    outputs.expert = {ids.data(), DType::i64};
    gradients.expert = {chosen.data(), DType::i32};
  }
};

template <class Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    return error.what();
  }
  return "none";
}

inline std::string forward_message(const std::function<void(Call&)>& spoil) {
  Call call;
  spoil(call);
  const std::string message =
      message_of([&] { route(call.logits, call.options, call.inputs, call.outputs, call.workspace); });
  EXPECT_EQ(call.ids, Call().ids) << "written before: " << message;
  return message;
}

inline std::string backward_message(const std::function<void(Call&)>& spoil) {
  Call call;
  spoil(call);
  const std::string message = message_of(
      [&] { route_backward(call.logits, call.options, call.inputs, call.gradients, call.dlogits, call.workspace); });
  EXPECT_EQ(call.dvalues, Call().dvalues) << "written before: " << message;
  return message;
}

}  // namespace route_calls
