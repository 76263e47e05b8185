// The plan against a stable sort, and its errors.
#include "switchyard/plan.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <random>
#include <vector>

#include "switchyard/error.hpp"

namespace {

using namespace switchyard;

struct Planned {
  Workspace workspace;
  Plan plan;
  Planned(const std::vector<std::int32_t>& expert, std::int32_t topk, std::int32_t experts, int threads)
      : workspace(plan_bytes(static_cast<std::int64_t>(expert.size()) / topk, topk, experts, Threads::pool(threads))),
        plan(make_plan(expert.data(), static_cast<std::int64_t>(expert.size()) / topk, topk, experts, workspace,
                       Threads::pool(threads))) {}
};

// The slots that are on, sorted by expert and otherwise in their order.
std::vector<std::int64_t> sorted_slots(const std::vector<std::int32_t>& expert) {
  std::vector<std::int64_t> slots;
  for (std::size_t slot = 0; slot < expert.size(); ++slot) {
    if (expert[slot] >= 0) {
      slots.push_back(static_cast<std::int64_t>(slot));
    }
  }
  std::stable_sort(slots.begin(), slots.end(), [&](auto a, auto b) {
    return expert[static_cast<std::size_t>(a)] < expert[static_cast<std::size_t>(b)];
  });
  return slots;
}

void check(const std::vector<std::int32_t>& expert, std::int32_t topk, std::int32_t experts, int threads) {
  const Planned planned(expert, topk, experts, threads);
  const Plan& plan = planned.plan;
  const std::vector<std::int64_t> slots = sorted_slots(expert);
  ASSERT_EQ(plan.rows, static_cast<std::int64_t>(slots.size()));
  for (std::int64_t row = 0; row < plan.rows; ++row) {
    const std::int64_t slot = slots[static_cast<std::size_t>(row)];
    ASSERT_EQ(plan.row_to_token[row], slot / topk);
    ASSERT_EQ(plan.slot_to_row[slot], row);
  }
  for (std::size_t slot = 0; slot < expert.size(); ++slot) {
    ASSERT_EQ(plan.slot_to_row[slot] < 0, expert[slot] < 0);
  }
  for (std::int32_t e = 0; e < experts; ++e) {
    ASSERT_EQ(plan.offset[e + 1] - plan.offset[e], std::count(expert.begin(), expert.end(), e));
  }
  ASSERT_EQ(plan.offset[0], 0);
  ASSERT_EQ(plan.offset[experts], plan.rows);
}

std::vector<std::int32_t> random_ids(std::size_t slots, std::int32_t experts, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<std::int32_t> id(-1, experts - 1);
  std::vector<std::int32_t> expert(slots);
  std::generate(expert.begin(), expert.end(), [&] { return id(random); });
  return expert;
}

TEST(Plan, SortsStablyOverSizesAndThreads) {
  for (const int threads : {1, 2, 3, 8}) {
    check({}, 4, 3, threads);
    check({2}, 1, 3, threads);
    check({-1, -1, -1, -1}, 2, 5, threads);
    check(std::vector<std::int32_t>(600, 4), 3, 5, threads);
    check(random_ids(17 * 5, 10, 1), 5, 10, threads);
    check(random_ids(20000 * 8, 64, 2), 8, 64, threads);
    check(random_ids(5000 * 3, 8192, 3), 3, 8192, threads);
  }
}

TEST(Plan, HoldsForAnyRouting) {
  EXPECT_TRUE(rc::check([] {
    const auto topk = *rc::gen::inRange<std::int32_t>(1, 9);
    const auto experts = *rc::gen::inRange<std::int32_t>(1, 40);
    const auto tokens = *rc::gen::inRange<std::size_t>(0, 50);
    const auto ids = *rc::gen::container<std::vector<std::int32_t>>(tokens * static_cast<std::size_t>(topk),
                                                                    rc::gen::inRange<std::int32_t>(-1, experts));
    check(ids, topk, experts, 2);
  }));
}

template <class Call>
void expect_message(const Call& call, const std::string& message) {
  try {
    call();
    FAIL() << "expected: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    EXPECT_EQ(error.what(), message);
  }
}

TEST(Plan, NamesTheBadId) {
  expect_message([] { check({0, 1, 2, 72}, 2, 64, 1); }, "plan: token 1 slot 1 names expert 72, expected -1..63");
  expect_message([] { check({-2}, 1, 4, 1); }, "plan: token 0 slot 0 names expert -2, expected -1..3");
}

TEST(Plan, RefusesAWorkspaceThatIsTooSmall) {
  const std::int32_t id = 0;
  const std::size_t needed = plan_bytes(1, 1, 4, Threads::pool(1));
  Workspace small(needed - kWorkspaceAlignment);
  expect_message([&] { make_plan(&id, 1, 1, 4, small, Threads::pool(1)); },
                 "plan: found a workspace of " + std::to_string(small.bytes()) + " bytes, expected at least " +
                     std::to_string(needed));
}

TEST(Plan, RefusesSizesThatCannotBe) {
  EXPECT_THROW(plan_bytes(-1, 1, 1, Threads::pool(1)), Error);
  EXPECT_THROW(plan_bytes(1, 0, 1, Threads::pool(1)), Error);
  EXPECT_THROW(plan_bytes(1, kMaxTopk + 1, 1, Threads::pool(1)), Error);
  EXPECT_THROW(plan_bytes(1, 1, 0, Threads::pool(1)), Error);
  EXPECT_THROW(plan_bytes(kMaxTokens + 1, 1, 1, Threads::pool(1)), Error);
}

}  // namespace
