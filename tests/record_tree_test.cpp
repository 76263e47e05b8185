// Turns that become nodes: the vectors of verifiers' attribution in all modes, fills, conflicts, forks, errors, memory.
#include "switchyard/record_tree.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "position_rows.hpp"

namespace {

constexpr std::size_t kLarge = std::size_t{64} << 10;
std::atomic<std::size_t> large_bytes{0};
std::atomic<std::size_t> large_count{0};

}  // namespace

void* operator new(std::size_t bytes) {
  if (bytes > kLarge) {
    large_bytes += bytes;
    ++large_count;
  }
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace position_rows;

constexpr std::int64_t kNone = -100;  // a row that is missing
using Positions = std::vector<std::int64_t>;

const RecordSchema& schema() {
  static const RecordSchema kSchema = schema_of();
  return kSchema;
}

// The rows of a node as positions of rows that they equal: what was observed, or all that stands there.
Positions positions_of(const RecordTree& tree, std::int64_t node, bool observed_only) {
  const RecordNode& at = tree.node(node);
  Positions found(static_cast<std::size_t>(at.tokens), kNone);
  const auto* rows = static_cast<const std::byte*>(tree.rows(node));
  for (std::int64_t r = 0; rows != nullptr && r < at.tokens; ++r) {
    const bool observed = std::any_of(at.observed.begin(), at.observed.end(),
                                      [&](const ObservedRange& range) { return range.begin <= r && r < range.end; });
    if (observed_only && !observed) continue;
    const std::byte* row = rows + static_cast<std::size_t>(r) * record_row_bytes(schema());
    for (std::int64_t p = -5; p < 40; ++p) {
      const Row wanted = row_of(schema(), p);
      if (std::equal(wanted.begin(), wanted.end(), row)) found[static_cast<std::size_t>(r)] = p;
    }
  }
  return found;
}

Turn turn_of(std::int64_t parent, std::int64_t start, std::int64_t rows, const std::vector<std::int64_t>& lengths,
             std::int64_t salt = 0) {
  Turn turn;
  turn.parent = parent;
  turn.start = start;
  turn.rows = source_of(schema(), start, rows, salt);
  for (const std::int64_t tokens : lengths) turn.nodes.push_back({tokens, 0, true});
  return turn;
}

// A prefix as an earlier turn leaves it: its last row is absent.
std::int64_t add_prefix(RecordTree& tree, std::int64_t tokens) {
  return tokens == 0 ? -1 : tree.commit(turn_of(-1, 0, tokens - 1, {tokens})).leaf;
}

struct Vector {
  int number;
  std::int64_t prefix, start, rows;
  std::vector<std::int64_t> lengths;
  std::vector<Positions> verifiers;  // what stands in the nodes: all or nothing, placeholders included
  bool whole;                        // the branch has rows
  std::int64_t repaired;             // what #2616 puts into the last row of the prefix, or kNone
  std::vector<Positions> strict;     // what is observed; none: an error
};

const std::int64_t N = kNone;
// verifiers v1/graph.py: the payload's row i is that of position start + i.
const std::vector<Vector> kVectors = {
    {1, 0, 0, 5, {2, 3}, {{0, 1}, {2, 3, 4}}, true, N, {{0, 1}, {2, 3, 4}}},
    {2, 0, 0, 4, {2, 3}, {{0, 1}, {2, 3, 3}}, true, N, {{0, 1}, {2, 3, N}}},
    {3, 0, 0, 3, {2, 3}, {{0, 1}, {N, N, N}}, false, N, {}},
    {4, 5, 4, 4, {2, 2}, {{5, 6}, {7, 7}}, true, 4, {{5, 6}, {7, N}}},
    {5, 5, 5, 3, {2, 2}, {{5, 6}, {7, 7}}, true, N, {{5, 6}, {7, N}}},
    {6, 5, 6, 2, {2, 2}, {{N, N}, {7, 7}}, false, N, {}},
    {7, 5, 0, 8, {2, 2}, {{5, 6}, {7, 7}}, true, 4, {{5, 6}, {7, N}}},
    {8, 0, 0, 4, {4, 1}, {{0, 1, 2, 3}, {3}}, true, N, {{0, 1, 2, 3}, {N}}},
    {9, 0, 0, 0, {1}, {{N}}, false, N, {{N}}},
    {10, 0, 0, 3, {2, 2, 0}, {{0, 1}, {2, 2}, {}}, true, N, {{0, 1}, {2, N}, {}}},
    {11, 0, 0, 7, {2, 3}, {{0, 1}, {2, 3, 4}}, true, N, {}},
    {12, 0, 0, 4, {2, 0, 3}, {{0, 1}, {}, {2, 3, 3}}, true, N, {{0, 1}, {}, {2, 3, N}}},
    // Row i is meant to be that of position i, so every node is one row late: rows −1 + 1.. in the source's count.
    {14, 0, -1, 5, {2, 3}, {{0, 1}, {2, 3, 3}}, true, N, {}},
    // One token whose placeholder comes from the prefix, and from nowhere.
    {20, 5, 4, 1, {1}, {{4}}, true, 4, {{N}}},
    {21, 5, 5, 0, {1}, {{N}}, false, N, {{N}}},
};

TEST(RecordTree, AttributesAsVerifiers) {
  for (const Attribution attribution : {Attribution::verifiers, Attribution::verifiers_repaired}) {
    for (const Vector& v : kVectors) {
      SCOPED_TRACE("vector " + std::to_string(v.number) + " " + std::to_string(static_cast<int>(attribution)));
      RecordTree tree(schema(), attribution);
      const std::int64_t prefix = add_prefix(tree, v.prefix);
      const CommitResult result = tree.commit(turn_of(prefix, v.start, v.rows, v.lengths));
      ASSERT_EQ(result.nodes.size(), v.verifiers.size());
      for (std::size_t i = 0; i < v.verifiers.size(); ++i) {
        EXPECT_EQ(positions_of(tree, result.nodes[i], false), v.verifiers[i]) << "node " << i;
      }
      Positions all;
      if (prefix >= 0) {
        const bool repairs = attribution == Attribution::verifiers_repaired && v.repaired != kNone;
        all = {0, 1, 2, 3, repairs ? v.repaired : 3};
        EXPECT_EQ(positions_of(tree, prefix, false), all);
        EXPECT_EQ(positions_of(tree, prefix, true).back(), repairs ? v.repaired : kNone);
      }
      const std::optional<RowSource> branch = tree.whole_branch(result.leaf);
      ASSERT_EQ(branch.has_value(), v.whole);
      if (!v.whole) continue;
      for (const Positions& node : v.verifiers) all.insert(all.end(), node.begin(), node.end());
      const std::vector<Row> rows = read_all(schema(), *branch);
      ASSERT_EQ(rows.size(), all.size());
      for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(rows[r], row_of(schema(), all[r])) << "row " << r;
    }
  }
}

TEST(RecordTree, APlaceholderIsNotObserved) {
  RecordTree tree(schema(), Attribution::verifiers);
  const CommitResult result = tree.commit(turn_of(-1, 0, 4, {4, 1}));
  EXPECT_EQ(tree.branch(result.leaf).observed, (std::vector<std::uint8_t>{1, 1, 1, 1, 0}));
}

TEST(RecordTree, RepairsSampledNodesWithRowsAlone) {
  for (const bool sampled : {false, true}) {
    for (const bool rows : {false, true}) {
      RecordTree tree(schema(), Attribution::verifiers_repaired);
      Turn first = turn_of(-1, 0, rows ? 4 : 0, {5, 0});
      first.nodes[0].sampled = sampled;
      const std::int64_t prefix = tree.commit(first).leaf;
      tree.commit(turn_of(prefix, 4, 3, {2}));
      EXPECT_EQ(positions_of(tree, 0, true).back(), sampled && rows ? 4 : kNone);
      // It overwrites: the reference does.
      tree.commit(turn_of(prefix, 4, 3, {2}, 1));
      EXPECT_EQ(positions_of(tree, 0, false).back(), !rows || sampled ? kNone : 3);
    }
  }
}

TEST(RecordTree, StrictKeepsWhatWasObservedAlone) {
  for (const Vector& v : kVectors) {
    SCOPED_TRACE("vector " + std::to_string(v.number));
    RecordTree tree(schema());
    const std::int64_t prefix = add_prefix(tree, v.prefix);
    const Turn turn = turn_of(prefix, v.start, v.rows, v.lengths);
    if (v.strict.empty()) {
      EXPECT_NE(error_of([&] { tree.commit(turn); }), "");
      EXPECT_EQ(tree.nodes(), prefix + 1);
      continue;
    }
    const CommitResult result = tree.commit(turn);
    for (std::size_t i = 0; i < v.strict.size(); ++i) {
      EXPECT_EQ(positions_of(tree, result.nodes[i], true), v.strict[i]) << "node " << i;
    }
    if (prefix >= 0) {
      const bool fills = v.start < v.prefix && v.rows > 0;
      EXPECT_EQ(positions_of(tree, prefix, true), (Positions{0, 1, 2, 3, fills ? 4 : kNone}));
      EXPECT_EQ(result.filled, fills ? 1 : 0);
    }
    EXPECT_EQ(tree.whole_branch(result.leaf).has_value(), v.number == 1);
  }
}

TEST(RecordTree, NamesWhatIsWrongWithATurn) {
  RecordTree tree(schema());
  add_prefix(tree, 5);
  const auto error = [&](const Turn& turn) { return error_of([&] { tree.commit(turn); }); };
  EXPECT_EQ(error(turn_of(1, 0, 0, {1})), "invalid argument: tree: turn continues node 1, expected -1..0");
  EXPECT_EQ(error(turn_of(0, -1, 5, {1})), "invalid argument: tree: turn starts at position -1, expected 0..5");
  EXPECT_EQ(error(turn_of(0, 5, 1, {1, -2})),
            "invalid argument: tree: new node 1 has -2 tokens, expected 0..1099511627776");
  EXPECT_EQ(error(turn_of(0, 6, 1, {2})),
            "bad data: tree: turn starts at position 6 behind a prefix of 5 tokens, expected no gap between them");
  EXPECT_EQ(error(turn_of(0, 4, 4, {2})),
            "bad data: tree: turn has rows up to position 7, its last token has 6: 1 too many");
  EXPECT_EQ(error(turn_of(0, 4, 2, {3})),
            "bad data: tree: turn has rows up to position 5, its last token has 7: 2 absent, expected at most 1");
  Turn turn = turn_of(0, 4, 2, {2});
  turn.rows.observed = {1};
  EXPECT_EQ(error(turn), "invalid argument: tree: turn has 1 states of 2 rows, expected one per row");
  turn.rows = RecordRows();
  turn.rows.source.rows = 3;
  EXPECT_NE(error(turn).find("expected 0..1099511627776 and a function that reads them"), std::string::npos);
  EXPECT_EQ(error_of([&] { (void)tree.node(7); }), "invalid argument: tree: found node 7, expected 0..0");
  EXPECT_EQ(error_of([&] { (void)tree.branch(-1); }), "invalid argument: tree: found node -1, expected 0..0");
  EXPECT_EQ(tree.nodes(), 1);
  RecordTree verifiers(schema(), Attribution::verifiers);
  Turn partial = turn_of(-1, 0, 2, {2});
  partial.rows.observed = {1, 0};
  EXPECT_NE(error_of([&] { verifiers.commit(partial); }).find("row 1 of the turn is missing"), std::string::npos);
}

TEST(RecordTree, ATurnMayLackRows) {
  RecordTree tree(schema());
  Turn turn = turn_of(-1, 0, 2, {3, 2});
  turn.max_missing = 3;
  const std::int64_t leaf = tree.commit(turn).leaf;
  EXPECT_EQ(tree.branch(leaf).observed, (std::vector<std::uint8_t>{1, 1, 0, 0, 0}));
  // Nothing was captured.
  Turn blind = turn_of(leaf, 0, 0, {2});
  blind.rows = RecordRows();
  const std::int64_t end = tree.commit(blind).leaf;
  EXPECT_EQ(tree.rows(end), nullptr);
  // A later turn has nearly everything, with a hole, and adds nothing.
  Turn fill = turn_of(end, 1, 6, {});
  fill.rows.observed = {1, 1, 0, 1, 1, 1};
  const CommitResult result = tree.commit(fill);
  EXPECT_EQ(result.leaf, end);
  EXPECT_EQ(result.filled, 4);
  EXPECT_EQ(tree.branch(end).observed, (std::vector<std::uint8_t>{1, 1, 1, 0, 1, 1, 1}));
  EXPECT_EQ(positions_of(tree, 0, true), (Positions{0, 1, 2}));
  EXPECT_EQ(positions_of(tree, 1, true), (Positions{kNone, 4}));
  EXPECT_EQ(positions_of(tree, 2, true), (Positions{5, 6}));
}

TEST(RecordTree, KeepsTheFirstOfTwoRowsAndCounts) {
  RecordTree tree(schema());
  const std::int64_t prefix = tree.commit(turn_of(-1, 0, 5, {2, 4})).leaf;
  Turn turn = turn_of(prefix, 1, 6, {2}, 1);
  turn.policy_version = 3;
  const CommitResult result = tree.commit(turn);
  EXPECT_EQ(result.conflicts, (std::vector<RowRange>{{1, 2}, {2, 5}}));
  EXPECT_EQ(result.filled, 1);
  EXPECT_EQ(tree.node(0).conflicts, 1);
  EXPECT_EQ(tree.node(1).conflicts, 3);
  EXPECT_EQ(tree.node(1).observed, (std::vector<ObservedRange>{{0, 3, 0}, {3, 4, 3}}));
  EXPECT_EQ(positions_of(tree, 0, true), (Positions{0, 1}));
  // The same once more, with the rows that are there.
  const CommitResult again = tree.commit(turn_of(prefix, 0, 5, {}));
  EXPECT_TRUE(again.conflicts.empty());
}

TEST(RecordTree, ReadsNoMoreThanItIsAskedTo) {
  for (const Overlap overlap : {Overlap::ignore, Overlap::fill, Overlap::compare}) {
    RecordTree tree(schema());
    const std::int64_t prefix = add_prefix(tree, 5);
    std::vector<std::uint8_t> read(8);
    Turn turn = turn_of(prefix, 0, 8, {2, 2}, 1);
    turn.overlap = overlap;
    turn.rows = source_of(schema(), 0, 8, 1, [&](std::int64_t begin, std::int64_t end) {
      for (; begin < end; ++begin) ++read[static_cast<std::size_t>(begin)];
    });
    const CommitResult result = tree.commit(turn);
    const std::uint8_t all = overlap == Overlap::compare ? 1 : 0;
    const std::uint8_t last = overlap == Overlap::ignore ? 0 : 1;
    EXPECT_EQ(read, (std::vector<std::uint8_t>{all, all, all, all, last, 1, 1, 1}));
    EXPECT_EQ(result.filled, last);
    EXPECT_EQ(result.conflicts.size(), all);
  }
}

TEST(RecordTree, ForksByPolicyVersion) {
  RecordTree tree(schema());
  Turn first = turn_of(-1, 0, 8, {2, 0, 3, 4});
  first.policy_version = 1;
  const std::int64_t leaf = tree.commit(first).leaf;
  Turn turn = turn_of(leaf, 3, 7, {2}, 1);
  turn.policy_version = 2;
  turn.overlap = Overlap::fork;
  const CommitResult result = tree.commit(turn);
  EXPECT_EQ(result.forked, 2);
  EXPECT_EQ(tree.path(result.leaf), (std::vector<std::int64_t>{0, 1, 4, 5, 6}));
  EXPECT_EQ(tree.leaves(), (std::vector<std::int64_t>{3, 6}));
  // The old branch is what it was; of the new one, the row before the turn's start is the old one.
  EXPECT_EQ(positions_of(tree, 2, true), (Positions{2, 3, 4}));
  EXPECT_EQ(tree.node(2).conflicts, 0);
  EXPECT_EQ(tree.node(4).observed, (std::vector<ObservedRange>{{0, 1, 1}, {1, 3, 2}}));
  EXPECT_EQ(tree.node(5).observed, (std::vector<ObservedRange>{{0, 4, 2}}));
  const std::vector<Row> rows = read_all(schema(), tree.branch(result.nodes[0]).source);
  for (std::int64_t p = 0; p < 10; ++p) {
    EXPECT_EQ(rows[static_cast<std::size_t>(p)], row_of(schema(), p, p >= 3 ? 1 : 0)) << p;
  }
  // Of one version, the first is kept.
  Turn same = turn_of(leaf, 3, 7, {2}, 1);
  same.policy_version = 1;
  same.overlap = Overlap::fork;
  EXPECT_EQ(tree.commit(same).forked, 0);
  EXPECT_EQ(tree.node(2).conflicts, 2);
}

TEST(RecordTree, FindsPrefixes) {
  RecordTree tree(schema());
  Turn turn = turn_of(-1, 0, 8, {2, 3, 4});
  for (std::size_t i = 0; i < 3; ++i) turn.nodes[i].hash = 100 + i;
  tree.commit(turn);
  std::vector<NewNode> path = turn.nodes;
  path.push_back({2, 7, false});
  KnownPrefix known = tree.find(path);
  EXPECT_EQ(known.node, 2);
  EXPECT_EQ(known.nodes, 3);
  path[1].hash = 0;
  known = tree.find(path);
  EXPECT_EQ(known.node, 0);
  EXPECT_EQ(known.nodes, 1);
  EXPECT_EQ(tree.find({}).node, -1);
  EXPECT_EQ(tree.find(std::span(turn.nodes).subspan(1), 0).node, 2);
}

TEST(RecordTree, AFailedTurnChangesNothing) {
  for (int failing = 1; failing < 6; ++failing) {
    RecordTree tree(schema());
    add_prefix(tree, 3);
    const std::int64_t prefix = tree.commit(turn_of(0, 3, 2, {3})).leaf;
    int reads = 0;
    Turn turn = turn_of(prefix, 0, 8, {2, 1}, 1);
    turn.policy_version = failing % 2;
    turn.overlap = Overlap::fork;
    turn.rows = source_of(schema(), 0, 8, 1, [&](std::int64_t, std::int64_t) {
      if (++reads == failing) throw Error(Code::bad_data, "payload: damaged");
    });
    ASSERT_EQ(error_of([&] { tree.commit(turn); }), "bad data: payload: damaged") << failing;
    EXPECT_EQ(tree.nodes(), 2);
    EXPECT_EQ(tree.node(0).conflicts + tree.node(1).conflicts, 0);
    EXPECT_EQ(positions_of(tree, 0, true), (Positions{0, 1, kNone}));
    EXPECT_EQ(positions_of(tree, 1, true), (Positions{3, 4, kNone}));
  }
}

TEST(RecordTree, SortsRowsOfACanonicalSchema) {
  RecordSchema canonical = schema_of(7, 3, {0, 1});
  canonical.order = SlotOrder::canonical;
  RecordTree tree(canonical);
  Turn turn;
  turn.nodes = {{5, 0, false}};
  turn.rows = source_of(canonical, 0, 5);  // ids wrap around, so slots do not ascend
  const std::int64_t leaf = tree.commit(turn).leaf;
  std::vector<std::byte> wanted;
  for (std::int64_t p = 0; p < 5; ++p) {
    Row row = row_of(canonical, p);
    std::sort(row.begin(), row.begin() + 3);
    std::sort(row.begin() + 3, row.end());
    wanted.insert(wanted.end(), row.begin(), row.end());
  }
  EXPECT_EQ(std::memcmp(tree.rows(leaf), wanted.data(), wanted.size()), 0);
  turn.parent = leaf;
  turn.nodes.clear();
  EXPECT_TRUE(tree.commit(turn).conflicts.empty());
}

// verifiers #1794: of 1,000,000 rows the last 100,001 are new, one of them absent.
TEST(RecordTree, KeepsTheNewRowsOfALongConversationAndNothingElse) {
  const RecordSchema long_schema = schema_of(256, 4, {0, 1, 2, 3, 4, 5, 6, 7});
  RecordTree tree(long_schema);
  Turn turn;
  turn.nodes = {{900'000, 0, false}};
  turn.parent = tree.commit(turn).leaf;
  turn.nodes = {{40'000, 0, false}, {60'001, 0, true}};
  std::int64_t first = 1'000'000;
  std::int64_t read = 0;
  turn.rows = source_of(long_schema, 0, 1'000'000, 0, [&](std::int64_t begin, std::int64_t end) {
    first = std::min(first, begin);
    read += end - begin;
  });
  turn.overlap = Overlap::ignore;
  large_bytes = 0;
  large_count = 0;
  const CommitResult result = tree.commit(turn);
  EXPECT_EQ(large_bytes, 3'200'032U);
  EXPECT_EQ(large_count, 2U);
  EXPECT_EQ(tree.row_bytes(), 3'200'032U);
  EXPECT_EQ(first, 900'000);
  EXPECT_EQ(read, 100'000);
  const Row last = row_of(long_schema, 999'999);
  const auto* rows = static_cast<const std::byte*>(tree.rows(result.leaf));
  EXPECT_TRUE(std::equal(last.begin(), last.end(), rows + 59'999 * last.size()));

  // Comparing all of them passes through one small buffer.
  turn.overlap = Overlap::compare;
  turn.parent = result.leaf;
  turn.nodes.clear();
  turn.start = 900'000;
  turn.rows = source_of(long_schema, 900'000, 100'000);
  large_bytes = 0;
  EXPECT_TRUE(tree.commit(turn).conflicts.empty());
  EXPECT_EQ(large_bytes, 0U);
}

}  // namespace
