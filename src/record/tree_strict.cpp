#include <algorithm>
#include <cstring>

#include "fail.hpp"
#include "record/runs.hpp"
#include "record/tree_nodes.hpp"

namespace switchyard {
namespace {

void check_positions(const Turn& turn, std::int64_t path_tokens, std::int64_t new_tokens) {
  if (turn.start < 0) {
    fail(Code::invalid_argument, "tree: turn starts at position {}, expected 0..{}", turn.start, path_tokens);
  }
  if (!turn.rows.source.read) return;
  const std::int64_t rows_end = turn.start + turn.rows.source.rows;
  const std::int64_t tokens_end = path_tokens + new_tokens;
  if (turn.start > path_tokens) {
    fail(Code::bad_data, "tree: turn starts at position {} behind a prefix of {} tokens, expected no gap between them",
         turn.start, path_tokens);
  }
  if (rows_end > tokens_end) {
    fail(Code::bad_data, "tree: turn has rows up to position {}, its last token has {}: {} too many", rows_end - 1,
         tokens_end - 1, rows_end - tokens_end);
  }
  if (new_tokens > 0 && rows_end < tokens_end - turn.max_missing) {
    fail(Code::bad_data, "tree: turn has rows up to position {}, its last token has {}: {} absent, expected at most {}",
         rows_end - 1, tokens_end - 1, tokens_end - rows_end, turn.max_missing);
  }
}

// A turn's rows on their way into one node.
class Rows {
 public:
  Rows(const RecordTree::Impl& tree, const Turn& turn) : tree_(tree), turn_(turn) {}

  // Calls function(begin, end) for runs of rows, counted from a node's first, that the turn has. The node begins at
  // position `at`.
  template <class Function>
  void for_each_given(std::int64_t at, std::int64_t tokens, Function&& function) const {
    const std::int64_t shift = at - turn_.start;
    const std::int64_t begin = std::max<std::int64_t>(0, shift);
    const std::int64_t end = std::min(turn_.rows.source.rows, shift + tokens);
    for_each_run(turn_.rows, begin, end, [&](std::int64_t first, std::int64_t last, bool given) {
      if (given) function(first - shift, last - shift);
    });
  }

  // Rows begin..end − 1 of the node at `at` into its rows, which are made if there are none.
  void read_into(std::unique_ptr<std::byte[]>& rows, std::int64_t at, std::int64_t tokens, std::int64_t begin,
                 std::int64_t end) const {
    if (!rows) rows = tree_.make_rows(tokens);
    const std::int64_t shift = at - turn_.start;
    tree_.read(turn_.rows.source, shift + begin, shift + end, tree_.row(rows.get(), begin));
  }

  // What the turn has of a node goes to `rows`; the ranges that did.
  std::vector<ObservedRange> read_all(std::unique_ptr<std::byte[]>& rows, std::int64_t at, std::int64_t tokens) const {
    std::vector<ObservedRange> ranges;
    for_each_given(at, tokens, [&](std::int64_t begin, std::int64_t end) {
      read_into(rows, at, tokens, begin, end);
      ranges.push_back({begin, end, turn_.policy_version});
    });
    return ranges;
  }

 private:
  const RecordTree::Impl& tree_;
  const Turn& turn_;
};

// function(begin, end, range) for what of begin..end − 1 lies in an observed range, and with null for what lies between.
template <class Function>
void split_by_state(const std::vector<ObservedRange>& observed, std::int64_t begin, std::int64_t end,
                    Function&& function) {
  for (const ObservedRange& range : observed) {
    if (range.end <= begin) continue;
    if (range.begin >= end) break;
    if (range.begin > begin) function(begin, range.begin, nullptr);
    begin = std::max(begin, range.begin);
    const std::int64_t last = std::min(end, range.end);
    function(begin, last, &range);
    begin = last;
  }
  if (begin < end) function(begin, end, nullptr);
}

struct PathNode {
  std::int64_t node;
  std::int64_t at;  // position of its first token
  std::vector<RowRange> conflicts;
  bool other_version = false;  // a conflict is with a row of another policy version
};

void add_row(std::vector<RowRange>& ranges, std::int64_t row) {
  if (!ranges.empty() && ranges.back().end == row) {
    ++ranges.back().end;
  } else {
    ranges.push_back({row, row + 1});
  }
}

// The change that a turn makes of its prefix: found first, and then made in one go.
class Prefix {
 public:
  Prefix(RecordTree::Impl& tree, const Turn& turn) : tree_(tree), turn_(turn), rows_(tree, turn) {
    std::int64_t at = 0;
    for (const std::int64_t node : tree.path(turn.parent)) {
      const std::int64_t tokens = tree.at(node).node.tokens;
      if (at + tokens > turn.start && at < turn.start + turn.rows.source.rows) path_.push_back({node, at, {}});
      at += tokens;
    }
  }

  void compare() {
    const std::int64_t most = rows_per_chunk(tree_.row_size);
    std::unique_ptr<std::byte[]> chunk;
    for (PathNode& on_path : path_) {
      TreeNode& node = tree_.at(on_path.node);
      rows_.for_each_given(on_path.at, node.node.tokens, [&](std::int64_t begin, std::int64_t end) {
        split_by_state(node.node.observed, begin, end,
                       [&](std::int64_t first, std::int64_t last, const ObservedRange* range) {
                         if (range == nullptr) return;
                         if (!chunk) chunk = tree_.make_rows(std::min(most, turn_.rows.source.rows));
                         for (; first < last; first += most) {
                           compare_chunk(on_path, *range, first, std::min(first + most, last), chunk.get());
                         }
                       });
      });
    }
  }

  // The first node with a conflict between policy versions, or null.
  const PathNode* fork_point() const {
    const auto found = std::find_if(path_.begin(), path_.end(), [](const PathNode& p) { return p.other_version; });
    return found == path_.end() ? nullptr : &*found;
  }

  // Reads rows that are missing before position `end`. Their states change with finish(): until then they mean nothing.
  void fill(std::int64_t end) {
    for (const PathNode& on_path : path_) {
      if (on_path.at >= end) break;
      TreeNode& node = tree_.at(on_path.node);
      std::vector<ObservedRange> filled;
      rows_.for_each_given(on_path.at, node.node.tokens, [&](std::int64_t begin, std::int64_t last) {
        split_by_state(node.node.observed, begin, last,
                       [&](std::int64_t from, std::int64_t to, const ObservedRange* range) {
                         if (range != nullptr) return;
                         rows_.read_into(node.rows, on_path.at, node.node.tokens, from, to);
                         filled.push_back({from, to, turn_.policy_version});
                         filled_ += to - from;
                       });
      });
      if (!filled.empty()) states_.push_back({on_path.node, overlay(node.node.observed, filled)});
    }
  }

  // Copies of the nodes from the fork on, with the turn's rows over theirs.
  std::vector<TreeNode> copies(const PathNode& fork) const {
    std::vector<TreeNode> copies;
    std::int64_t at = 0;
    for (const std::int64_t id : tree_.path(turn_.parent)) {
      const TreeNode& node = tree_.at(id);
      if (id == fork.node || !copies.empty()) copies.push_back(copy(node, at));
      at += node.node.tokens;
    }
    return copies;
  }

  std::vector<RowRange> conflicts() const {
    std::vector<RowRange> all;
    for (const PathNode& on_path : path_) {
      for (const RowRange& range : on_path.conflicts) {
        all.push_back({on_path.at + range.begin, on_path.at + range.end});
      }
    }
    return all;
  }

  std::int64_t filled() const { return filled_; }

  // Conflicts from the fork on are none: the fork has their rows.
  void finish(std::int64_t end) noexcept {
    for (State& state : states_) tree_.at(state.node).node.observed.swap(state.observed);
    for (const PathNode& on_path : path_) {
      if (on_path.at >= end) break;
      for (const RowRange& range : on_path.conflicts) {
        tree_.at(on_path.node).node.conflicts += range.end - range.begin;
      }
    }
  }

 private:
  struct State {
    std::int64_t node;
    std::vector<ObservedRange> observed;
  };

  void compare_chunk(PathNode& on_path, const ObservedRange& range, std::int64_t begin, std::int64_t end,
                     std::byte* chunk) {
    const std::int64_t shift = on_path.at - turn_.start;
    tree_.read(turn_.rows.source, shift + begin, shift + end, chunk);
    std::byte* kept = tree_.row(tree_.at(on_path.node).rows.get(), begin);
    if (std::memcmp(kept, chunk, static_cast<std::size_t>(end - begin) * tree_.row_size) == 0) return;
    for (std::int64_t row = begin; row < end; ++row) {
      if (std::memcmp(tree_.row(kept, row - begin), tree_.row(chunk, row - begin), tree_.row_size) != 0) {
        add_row(on_path.conflicts, row);
        on_path.other_version |= range.policy_version != turn_.policy_version;
      }
    }
  }

  TreeNode copy(const TreeNode& from, std::int64_t at) const {
    TreeNode node{from.node, nullptr, false};
    node.node.conflicts = 0;
    if (from.rows) {
      node.rows = tree_.make_rows(from.node.tokens);
      for (const ObservedRange& range : from.node.observed) {
        std::memcpy(tree_.row(node.rows.get(), range.begin), tree_.row(from.rows.get(), range.begin),
                    static_cast<std::size_t>(range.end - range.begin) * tree_.row_size);
      }
    }
    node.node.observed = overlay(from.node.observed, rows_.read_all(node.rows, at, from.node.tokens));
    return node;
  }

  RecordTree::Impl& tree_;
  const Turn& turn_;
  Rows rows_;
  std::vector<PathNode> path_;
  std::vector<State> states_;
  std::int64_t filled_ = 0;
};

}  // namespace

CommitResult commit_strict(RecordTree::Impl& tree, const Turn& turn, std::int64_t path_tokens,
                           std::int64_t new_tokens) {
  check_positions(turn, path_tokens, new_tokens);
  CommitResult result;
  Prefix prefix(tree, turn);
  std::vector<TreeNode> added;
  std::int64_t parent = turn.parent;
  std::int64_t kept_end = path_tokens;  // where the nodes end that stay the turn's prefix
  if (turn.overlap >= Overlap::compare) prefix.compare();
  if (const auto* fork = turn.overlap == Overlap::fork ? prefix.fork_point() : nullptr) {
    kept_end = fork->at;
    parent = tree.at(fork->node).node.parent;
    added = prefix.copies(*fork);
    result.forked = static_cast<std::int64_t>(added.size());
  }
  if (turn.overlap >= Overlap::fill) prefix.fill(kept_end);
  result.conflicts = prefix.conflicts();
  result.filled = prefix.filled();

  const Rows rows(tree, turn);
  std::int64_t at = path_tokens;
  for (const NewNode& wanted : turn.nodes) {
    TreeNode node{{-1, wanted.tokens, wanted.hash, wanted.sampled, {}, 0}, nullptr, false};
    node.node.observed = rows.read_all(node.rows, at, wanted.tokens);
    added.push_back(std::move(node));
    at += wanted.tokens;
  }
  result.nodes.reserve(turn.nodes.size());
  const std::vector<std::int64_t> ids = tree.add(parent, std::move(added));
  // Nothing throws from here on.
  result.leaf = ids.empty() ? turn.parent : ids.back();
  result.nodes.assign(ids.begin() + result.forked, ids.end());
  prefix.finish(kept_end);
  return result;
}

}  // namespace switchyard
