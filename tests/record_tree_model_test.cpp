// Any turns against models that keep everything: one of the strict rules, one of verifiers' algorithm as it is told.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "position_rows.hpp"
#include "switchyard/record_tree.hpp"

namespace {

using namespace position_rows;

const RecordSchema& schema() {
  static const RecordSchema kSchema = schema_of(300, 3, {4, 9});
  return kSchema;
}

struct ModelRow {
  std::int64_t position = 0;
  std::int64_t salt = 0;
  std::int64_t version = 0;
  bool same(const ModelRow& other) const { return position == other.position && salt == other.salt; }
};

struct ModelNode {
  std::int64_t parent = -1;
  std::vector<std::optional<ModelRow>> rows;
  std::int64_t conflicts = 0;
  bool sampled = false;
  bool set = false;  // verifiers
};

using Model = std::vector<ModelNode>;

struct Place {
  std::int64_t node;
  std::size_t row;
};

// Every token of a path, in order.
std::vector<Place> places_of(const Model& model, std::int64_t node) {
  std::vector<std::int64_t> path;
  for (; node >= 0; node = model[static_cast<std::size_t>(node)].parent) path.insert(path.begin(), node);
  std::vector<Place> places;
  for (const std::int64_t n : path) {
    for (std::size_t r = 0; r < model[static_cast<std::size_t>(n)].rows.size(); ++r) places.push_back({n, r});
  }
  return places;
}

// What a turn carries, apart from the tree.
struct Step {
  Turn turn;
  std::vector<ModelRow> rows;
};

Step any_step(std::int64_t nodes, const Model& model, bool strict) {
  Step step;
  Turn& turn = step.turn;
  turn.parent = *rc::gen::inRange<std::int64_t>(-1, nodes);
  const auto path = static_cast<std::int64_t>(places_of(model, turn.parent).size());
  std::int64_t tokens = path;
  for (int i = *rc::gen::inRange(0, 4); i > 0; --i) {
    turn.nodes.push_back({*rc::gen::inRange<std::int64_t>(0, 4), 0, *rc::gen::arbitrary<bool>()});
    tokens += turn.nodes.back().tokens;
  }
  // Now and then a start or a number of rows that does not fit.
  turn.start = *rc::gen::inRange<std::int64_t>(-1, path + 2);
  const std::int64_t count = std::max<std::int64_t>(0, tokens - turn.start - *rc::gen::inRange<std::int64_t>(-1, 3));
  turn.policy_version = *rc::gen::inRange<std::int64_t>(0, 2);
  turn.overlap = *rc::gen::element(Overlap::ignore, Overlap::fill, Overlap::compare, Overlap::fork);
  for (std::int64_t r = 0; r < count; ++r) {
    step.rows.push_back({turn.start + r, *rc::gen::inRange<std::int64_t>(0, 2), turn.policy_version});
  }
  turn.rows.source = {count, [rows = step.rows](std::int64_t begin, std::int64_t end, void* to) {
                        auto* out = static_cast<std::byte*>(to);
                        for (std::int64_t r = begin; r < end; ++r) {
                          const ModelRow& row = rows[static_cast<std::size_t>(r)];
                          const Row bytes = row_of(schema(), row.position, row.salt);
                          out = std::copy(bytes.begin(), bytes.end(), out);
                        }
                      }};
  if (strict && *rc::gen::arbitrary<bool>()) {
    turn.rows.observed = *rc::gen::container<std::vector<std::uint8_t>>(static_cast<std::size_t>(count),
                                                                        rc::gen::inRange<std::uint8_t>(0, 2));
  }
  return step;
}

bool strict_allows(const Model& model, const Step& step) {
  const auto path = static_cast<std::int64_t>(places_of(model, step.turn.parent).size());
  std::int64_t tokens = 0;
  for (const NewNode& node : step.turn.nodes) tokens += node.tokens;
  const std::int64_t end = step.turn.start + static_cast<std::int64_t>(step.rows.size());
  return step.turn.start >= 0 && step.turn.start <= path && end <= path + tokens &&
         (tokens == 0 || end >= path + tokens - step.turn.max_missing);
}

// Puts what the turn has of places `from`.. into them; `replace` says whether observed rows give way.
void put(Model& model, const Step& step, const std::vector<Place>& places, std::size_t from, bool replace) {
  for (std::size_t r = 0; r < step.rows.size(); ++r) {
    const std::size_t position = static_cast<std::size_t>(step.turn.start) + r;
    if (position < from || !step.turn.rows.is_observed(static_cast<std::int64_t>(r))) continue;
    const Place place = places[position];
    std::optional<ModelRow>& row = model[static_cast<std::size_t>(place.node)].rows[place.row];
    if (!row || replace) row = step.rows[r];
  }
}

// The node that a fork begins with, or −1; conflicts are counted in what lies before it.
std::int64_t count_conflicts(Model& model, const Step& step, const std::vector<Place>& places) {
  const bool forks = step.turn.overlap == Overlap::fork;
  std::map<std::int64_t, std::int64_t> conflicts;
  std::int64_t fork = -1;
  for (std::size_t r = 0; r < step.rows.size(); ++r) {
    const std::size_t position = static_cast<std::size_t>(step.turn.start) + r;
    if (position >= places.size() || !step.turn.rows.is_observed(static_cast<std::int64_t>(r))) continue;
    const auto& row = model[static_cast<std::size_t>(places[position].node)].rows[places[position].row];
    if (!row || row->same(step.rows[r])) continue;
    ++conflicts[places[position].node];
    if (forks && fork < 0 && row->version != step.turn.policy_version) fork = places[position].node;
  }
  bool before = true;
  for (const Place& place : places) {
    before = before && place.node != fork;
    if (before) model[static_cast<std::size_t>(place.node)].conflicts += std::exchange(conflicts[place.node], 0);
  }
  return fork;
}

std::int64_t copy_from(Model& model, std::int64_t node, std::int64_t fork) {
  const std::int64_t parent = model[static_cast<std::size_t>(node)].parent;
  ModelNode copy = model[static_cast<std::size_t>(node)];
  copy.parent = node == fork ? parent : copy_from(model, parent, fork);
  copy.conflicts = 0;
  model.push_back(copy);
  return static_cast<std::int64_t>(model.size()) - 1;
}

void commit_to(Model& model, const Step& step) {
  const std::vector<Place> prefix = places_of(model, step.turn.parent);
  std::int64_t parent = step.turn.parent;
  std::int64_t fork = -1;
  if (step.turn.overlap >= Overlap::compare) fork = count_conflicts(model, step, prefix);
  std::size_t fork_position = prefix.size();
  if (fork >= 0) {
    parent = copy_from(model, parent, fork);
    fork_position = 0;
    while (prefix[fork_position].node != fork) ++fork_position;
  }
  for (const NewNode& node : step.turn.nodes) {
    ModelNode added;
    added.parent = parent;
    added.rows.resize(static_cast<std::size_t>(node.tokens));
    added.sampled = node.sampled;
    model.push_back(added);
    parent = static_cast<std::int64_t>(model.size()) - 1;
  }
  const std::vector<Place> places = places_of(model, parent);
  if (step.turn.overlap >= Overlap::fill) put(model, step, places, 0, false);
  put(model, step, places, fork_position, true);
}

void expect_row(const ModelRow& row, const std::byte* bytes) {
  const Row wanted = row_of(schema(), row.position, row.salt);
  RC_ASSERT(std::equal(wanted.begin(), wanted.end(), bytes));
}

void expect_strict(const RecordTree& tree, const Model& model) {
  RC_ASSERT(tree.nodes() == static_cast<std::int64_t>(model.size()));
  std::set<std::int64_t> leaves;
  for (std::int64_t n = 0; n < tree.nodes(); ++n) {
    leaves.insert(n);
    const ModelNode& wanted = model[static_cast<std::size_t>(n)];
    const RecordNode& node = tree.node(n);
    leaves.erase(node.parent);
    RC_ASSERT(node.parent == wanted.parent);
    RC_ASSERT(node.tokens == static_cast<std::int64_t>(wanted.rows.size()));
    RC_ASSERT(node.conflicts == wanted.conflicts);
    std::vector<std::optional<std::int64_t>> versions(wanted.rows.size());
    for (const ObservedRange& range : node.observed) {
      for (std::int64_t r = range.begin; r < range.end; ++r)
        versions[static_cast<std::size_t>(r)] = range.policy_version;
    }
    const auto* rows = static_cast<const std::byte*>(tree.rows(n));
    for (std::size_t r = 0; r < wanted.rows.size(); ++r) {
      RC_ASSERT(versions[r].has_value() == wanted.rows[r].has_value());
      if (!wanted.rows[r]) continue;
      RC_ASSERT(*versions[r] == wanted.rows[r]->version);
      expect_row(*wanted.rows[r], rows + r * record_row_bytes(schema()));
    }
  }
  const std::vector<std::int64_t> found = tree.leaves();
  RC_ASSERT(std::set<std::int64_t>(found.begin(), found.end()) == leaves);
  for (const std::int64_t leaf : found) {
    const std::vector<Place> places = places_of(model, leaf);
    const RecordRows branch = tree.branch(leaf);
    RC_ASSERT(branch.source.rows == static_cast<std::int64_t>(places.size()));
    bool whole = true;
    for (std::size_t p = 0; p < places.size(); ++p) {
      const auto& row = model[static_cast<std::size_t>(places[p].node)].rows[places[p].row];
      RC_ASSERT(branch.observed[p] == (row ? 1 : 0));
      whole = whole && row;
      if (!row) continue;
      Row bytes(record_row_bytes(schema()));
      branch.source.read(static_cast<std::int64_t>(p), static_cast<std::int64_t>(p) + 1, bytes.data());
      expect_row(*row, bytes.data());
    }
    RC_ASSERT(tree.whole_branch(leaf).has_value() == whole);
  }
}

TEST(RecordTreeModel, AnyTurnsEqualATreeThatKeepsEverything) {
  EXPECT_TRUE(rc::check([] {
    RecordTree tree(schema());
    Model model;
    for (int i = *rc::gen::inRange(1, 40); i > 0; --i) {
      const Step step = any_step(tree.nodes(), model, true);
      const bool allowed = strict_allows(model, step);
      const std::string error = error_of([&] { tree.commit(step.turn); });
      RC_ASSERT(error.empty() == allowed);
      if (allowed) commit_to(model, step);
      expect_strict(tree, model);
    }
  }));
}

// verifiers' commit, `arr` being the turn's rows.
void commit_as_told(Model& model, const Step& step, bool repairs) {
  const std::vector<ModelRow>& arr = step.rows;
  const auto count = static_cast<std::int64_t>(arr.size());
  std::int64_t off = static_cast<std::int64_t>(places_of(model, step.turn.parent).size()) - step.turn.start;
  if (repairs && off >= 1 && off <= count) {
    std::int64_t last = step.turn.parent;
    while (last >= 0 && model[static_cast<std::size_t>(last)].rows.empty()) {
      last = model[static_cast<std::size_t>(last)].parent;
    }
    if (last >= 0 && model[static_cast<std::size_t>(last)].sampled && model[static_cast<std::size_t>(last)].set) {
      model[static_cast<std::size_t>(last)].rows.back() = arr[static_cast<std::size_t>(off - 1)];
    }
  }
  std::int64_t needed = off;
  for (const NewNode& node : step.turn.nodes) needed += node.tokens;
  std::int64_t parent = step.turn.parent;
  for (const NewNode& wanted : step.turn.nodes) {
    ModelNode node;
    node.parent = parent;
    node.sampled = wanted.sampled;
    const std::int64_t end = off + wanted.tokens;
    if (wanted.tokens > 0 && off >= 0 && end <= count) {
      node.rows.assign(arr.begin() + off, arr.begin() + end);
      node.set = true;
    } else if (wanted.tokens > 0 && count > 0 && off >= 0 && end == needed && needed == count + 1) {
      node.rows.assign(arr.begin() + off, arr.end());
      node.rows.emplace_back(arr.back());
      node.set = true;
    } else {
      node.rows.resize(static_cast<std::size_t>(wanted.tokens));
    }
    off = end;
    model.push_back(node);
    parent = static_cast<std::int64_t>(model.size()) - 1;
  }
}

TEST(RecordTreeModel, AnyTurnsEqualVerifiers) {
  EXPECT_TRUE(rc::check([] {
    const bool repairs = *rc::gen::arbitrary<bool>();
    RecordTree tree(schema(), repairs ? Attribution::verifiers_repaired : Attribution::verifiers);
    Model model;
    for (int i = *rc::gen::inRange(1, 40); i > 0; --i) {
      const Step step = any_step(tree.nodes(), model, false);
      tree.commit(step.turn);
      commit_as_told(model, step, repairs);
    }
    RC_ASSERT(tree.nodes() == static_cast<std::int64_t>(model.size()));
    for (std::int64_t n = 0; n < tree.nodes(); ++n) {
      const std::vector<Place> places = places_of(model, n);
      const bool whole = std::all_of(places.begin(), places.end(), [&](const Place& place) {
        return model[static_cast<std::size_t>(place.node)].rows[place.row].has_value();
      });
      const std::optional<RowSource> branch = tree.whole_branch(n);
      RC_ASSERT(branch.has_value() == whole);
      if (!whole) continue;
      const std::vector<Row> rows = read_all(schema(), *branch);
      RC_ASSERT(rows.size() == places.size());
      for (std::size_t p = 0; p < places.size(); ++p) {
        expect_row(*model[static_cast<std::size_t>(places[p].node)].rows[places[p].row], rows[p].data());
      }
    }
  }));
}

}  // namespace
