// Memory that a call reads and writes has to be apart: refused with the whole message, and nothing is written then.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "route_calls.hpp"

namespace {

using namespace route_calls;

struct Shared {
  const char* name;
  std::function<void(Call&, void*)> place;  // puts it there
};

template <class T>
T* as(void* at) {
  return static_cast<T*>(at);
}

// What `route` reads.
std::vector<Shared> forward_reads() {
  return {{"logits", [](Call& c, void* at) { c.logits.data = at; }},
          {"selection_bias",
           [](Call& c, void* at) {
             c.options.selection_bias = {at, DType::f32};
           }},
          {"logit_bias", [](Call& c, void* at) { c.options.logit_bias = as<float>(at); }},
          {"expert_scale", [](Call& c, void* at) { c.options.expert_scale = as<float>(at); }},
          {"table",
           [](Call& c, void* at) {
             static const std::int32_t ids[kTokens] = {};
             c.options.table = {at, DType::i32};
             c.options.table_rows = 1;
             c.inputs.token_id = {ids, DType::i32};
           }},
          {"valid", [](Call& c, void* at) { c.inputs.valid = as<std::uint8_t>(at); }},
          {"forced",
           [](Call& c, void* at) {
             c.inputs.forced = {at, DType::i16};
           }},
          {"replayed", [](Call& c, void* at) { c.inputs.replayed = as<std::uint8_t>(at); }},
          {"token_id",
           [](Call& c, void* at) {
             c.inputs.token_id = {at, DType::i64};
           }},
          {"sequence_begin", [](Call& c, void* at) {
             c.inputs.sequence_begin = as<std::int64_t>(at);
             as<std::int64_t>(at)[1] = kTokens;
           }}};
}

// What `route` writes.
std::vector<Shared> forward_writes() {
  return {{"expert",
           [](Call& c, void* at) {
             c.outputs.expert = {at, DType::i64};
           }},
          {"weight",
           [](Call& c, void* at) {
             c.outputs.weight = {at, DType::bf16};
           }},
          {"probability",
           [](Call& c, void* at) {
             c.outputs.probability = {at, DType::f16};
           }},
          {"byte_map", [](Call& c, void* at) { c.outputs.byte_map = as<std::uint8_t>(at); }},
          {"bit_map", [](Call& c, void* at) { c.outputs.bit_map = as<std::uint8_t>(at); }},
          {"chosen_logit", [](Call& c, void* at) { c.outputs.chosen_logit = as<float>(at); }},
          {"aux_score", [](Call& c, void* at) { c.outputs.aux_score = as<float>(at); }},
          {"count", [](Call& c, void* at) { c.outputs.count = as<std::int64_t>(at); }},
          {"score_sum", [](Call& c, void* at) { c.outputs.score_sum = as<double>(at); }},
          {"z_sum", [](Call& c, void* at) { c.outputs.z_sum = as<double>(at); }},
          {"valid_count", [](Call& c, void* at) { c.outputs.valid_count = as<std::int64_t>(at); }},
          {"cutoff", [](Call& c, void* at) { c.outputs.cutoff = as<float>(at); }},
          {"histogram", [](Call& c, void* at) {
             c.outputs.histogram = as<std::int32_t>(at);
             c.outputs.bins = 4;
             c.outputs.qb_upper = 1;
           }}};
}

std::string overlapping(const std::string& written, const std::string& other) {
  return "route: " + written + " and " + other + " overlap, expected separate memory";
}

TEST(RouteMemory, NothingThatIsReadLiesInTheWorkspace) {
  for (const Shared& read : forward_reads()) {
    EXPECT_EQ(forward_message([&](Call& c) {
                std::memset(c.workspace.data(), 0, c.workspace.bytes());
                read.place(c, c.workspace.data());
              }),
              overlapping("the workspace", read.name));
  }
}

TEST(RouteMemory, NothingThatIsReadIsWritten) {
  for (const Shared& read : forward_reads()) {
    for (const Shared& written : forward_writes()) {
      const bool given = std::string(read.name) == "forced" || std::string(read.name) == "table";
      const bool live_only = std::string(written.name) == "cutoff" || std::string(written.name) == "histogram";
      if (given && live_only) continue;
      std::vector<std::int64_t> memory(64, 0);
      const std::vector<std::int64_t> before = [&] {
        std::vector<std::int64_t> copy = memory;
        copy[1] = std::string(read.name) == "sequence_begin" ? kTokens : 0;
        return copy;
      }();
      EXPECT_EQ(forward_message([&](Call& c) {
                  read.place(c, memory.data());
                  written.place(c, memory.data());
                }),
                overlapping(written.name, read.name));
      EXPECT_EQ(memory, before) << written.name;
    }
  }
}

TEST(RouteMemory, NothingIsWrittenTwice) {
  const std::vector<Shared> all = forward_writes();
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(forward_message([&](Call& c) { all[i].place(c, c.workspace.data()); }),
              overlapping(all[i].name, "the workspace"));
    for (std::size_t j = 0; j < i; ++j) {
      std::vector<std::int64_t> memory(64, 0);
      EXPECT_EQ(forward_message([&](Call& c) {
                  all[i].place(c, memory.data());
                  all[j].place(c, memory.data());
                }),
                overlapping(all[i].name, all[j].name));
      EXPECT_EQ(memory, std::vector<std::int64_t>(64, 0)) << all[i].name;
    }
  }
}

// Columns of one matrix do not overlap what begins behind its last row.
TEST(RouteMemory, ColumnsEndWhereTheyEnd) {
  std::vector<float> memory((2 * kExperts + 1) * kTokens, 0.5F);
  Call c;
  c.logits = {memory.data() + kExperts, kTokens, kExperts};
  c.logits.stride = 2 * kExperts - 1;
  c.outputs.cutoff = memory.data() + kExperts + (kTokens - 1) * c.logits.stride + kExperts;
  EXPECT_EQ(message_of([&] { route(c.logits, c.options, c.inputs, c.outputs, c.workspace); }), "none");
}

TEST(RouteMemory, ABackwardReadsNothingThatItWrites) {
  const std::vector<Shared> reads{{"logits", [](Call& c, void* at) { c.logits.data = at; }},
                                  {"logit_bias", [](Call& c, void* at) { c.options.logit_bias = as<float>(at); }},
                                  {"expert_scale", [](Call& c, void* at) { c.options.expert_scale = as<float>(at); }},
                                  {"valid", [](Call& c, void* at) { c.inputs.valid = as<std::uint8_t>(at); }},
                                  {"sequence_begin",
                                   [](Call& c, void* at) {
                                     c.inputs.sequence_begin = as<std::int64_t>(at);
                                     as<std::int64_t>(at)[1] = kTokens;
                                   }},
                                  {"expert",
                                   [](Call& c, void* at) {
                                     c.gradients.expert = {at, DType::i16};
                                   }},
                                  {"gradient of weight",
                                   [](Call& c, void* at) {
                                     c.gradients.weight = {at, DType::f32};
                                   }},
                                  {"gradient of probability",
                                   [](Call& c, void* at) {
                                     c.gradients.probability = {at, DType::f32};
                                   }},
                                  {"chosen_logit", [](Call& c, void* at) { c.gradients.chosen_logit = as<float>(at); }},
                                  {"gradient of aux", [](Call& c, void* at) { c.gradients.aux = as<float>(at); }}};
  for (const Shared& read : reads) {
    EXPECT_EQ(backward_message([&](Call& c) {
                std::memset(c.workspace.data(), 0, c.workspace.bytes());
                read.place(c, c.workspace.data());
              }),
              overlapping("the workspace", read.name));
    std::vector<std::int64_t> memory(64, 0);
    EXPECT_EQ(backward_message([&](Call& c) {
                read.place(c, memory.data());
                c.dlogits.data = memory.data();
              }),
              overlapping("dlogits", read.name));
    const bool sequences = std::string(read.name) == "sequence_begin";
    EXPECT_EQ(std::count(memory.begin(), memory.end(), 0), sequences ? 63 : 64) << read.name;
  }
  EXPECT_EQ(backward_message([](Call& c) { c.dlogits.data = c.workspace.data(); }),
            overlapping("dlogits", "the workspace"));
}

}  // namespace
