#include <cstring>
#include <optional>

#include "fail.hpp"
#include "record/tree_nodes.hpp"

namespace switchyard {
namespace {

// The last row of the prefix, as the turn has it.
struct Repair {
  std::int64_t node;
  std::unique_ptr<std::byte[]> row;
  std::vector<ObservedRange> observed;
};

std::optional<Repair> find_repair(const RecordTree::Impl& tree, const Turn& turn, std::int64_t offset) {
  if (offset < 1 || offset > turn.rows.source.rows) return std::nullopt;
  std::int64_t last = turn.parent;
  while (last >= 0 && tree.at(last).node.tokens == 0) last = tree.at(last).node.parent;
  if (last < 0 || !tree.at(last).node.sampled || !tree.at(last).attributed) return std::nullopt;
  const RecordNode& node = tree.at(last).node;
  Repair repair{last, tree.make_rows(1), overlay(node.observed, {{node.tokens - 1, node.tokens, turn.policy_version}})};
  tree.read(turn.rows.source, offset - 1, offset, repair.row.get());
  return repair;
}

// Rows from `offset` on of the source become those of a node; `needed` is where the turn's last node ends in it.
void attribute(const RecordTree::Impl& tree, const Turn& turn, std::int64_t offset, std::int64_t needed,
               TreeNode& node) {
  const RowSource& source = turn.rows.source;
  const std::int64_t tokens = node.node.tokens;
  const std::int64_t end = offset + tokens;
  if (tokens == 0 || offset < 0) return;
  const bool lacks_last = source.rows > 0 && end == needed && needed == source.rows + 1;
  if (end > source.rows && !lacks_last) return;
  node.rows = tree.make_rows(tokens);
  node.attributed = true;
  const std::int64_t given = lacks_last ? tokens - 1 : tokens;
  if (given > 0) {
    tree.read(source, offset, offset + given, node.rows.get());
    node.node.observed.push_back({0, given, turn.policy_version});
  }
  if (lacks_last && given > 0) {
    std::memcpy(tree.row(node.rows.get(), given), tree.row(node.rows.get(), given - 1), tree.row_size);
  } else if (lacks_last) {
    tree.read(source, source.rows - 1, source.rows, node.rows.get());
  }
}

}  // namespace

CommitResult commit_as_verifiers(RecordTree::Impl& tree, const Turn& turn, std::int64_t path_tokens,
                                 std::int64_t new_tokens) {
  for (std::int64_t row = 0; row < turn.rows.source.rows; ++row) {
    if (!turn.rows.is_observed(row)) {
      fail(Code::invalid_argument, "tree: row {} of the turn is missing, expected all rows for verifiers' attribution",
           row);
    }
  }
  std::int64_t offset = path_tokens - turn.start;
  const std::int64_t needed = offset + new_tokens;
  std::optional<Repair> repair;
  if (tree.attribution == Attribution::verifiers_repaired) repair = find_repair(tree, turn, offset);
  std::vector<TreeNode> added;
  for (const NewNode& wanted : turn.nodes) {
    added.push_back({{-1, wanted.tokens, wanted.hash, wanted.sampled, {}, 0}, nullptr, false});
    attribute(tree, turn, offset, needed, added.back());
    offset += wanted.tokens;
  }
  CommitResult result;
  result.nodes = tree.add(turn.parent, std::move(added));
  result.leaf = result.nodes.empty() ? turn.parent : result.nodes.back();
  if (repair) {
    TreeNode& node = tree.at(repair->node);
    std::memcpy(tree.row(node.rows.get(), node.node.tokens - 1), repair->row.get(), tree.row_size);
    node.node.observed.swap(repair->observed);
  }
  return result;
}

}  // namespace switchyard
