// What a RecordTree is made of, and the two ways in which a turn changes it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "switchyard/record_tree.hpp"

namespace switchyard {

struct TreeNode {
  RecordNode node;
  std::unique_ptr<std::byte[]> rows;  // [tokens,L,K] or null
  bool attributed = false;  // verifiers: it got rows. The last may be a made up one, and is not observed then.
};

struct RecordTree::Impl {
  RecordSchema schema;
  Attribution attribution;
  std::size_t row_size;
  std::vector<TreeNode> nodes;

  TreeNode& at(std::int64_t node) { return nodes[static_cast<std::size_t>(node)]; }
  const TreeNode& at(std::int64_t node) const { return nodes[static_cast<std::size_t>(node)]; }
  // Throws invalid_argument unless the node is there.
  const TreeNode& checked(std::int64_t node) const;
  std::vector<std::int64_t> path(std::int64_t node) const;
  std::int64_t path_tokens(std::int64_t node) const;

  std::unique_ptr<std::byte[]> make_rows(std::int64_t tokens) const;
  std::byte* row(std::byte* rows, std::int64_t row) const { return rows + static_cast<std::size_t>(row) * row_size; }
  // Reads rows begin..end − 1 of the source, sorted if the schema is canonical.
  void read(const RowSource& source, std::int64_t begin, std::int64_t end, std::byte* to) const;

  // Appends nodes below `parent`, each below the one before. Nothing has changed if it throws, nor before it returns.
  std::vector<std::int64_t> add(std::int64_t parent, std::vector<TreeNode>&& added);
};

// `added` and what of `kept` it does not cover, both ascending; ranges that touch become one if their version is one.
std::vector<ObservedRange> overlay(const std::vector<ObservedRange>& kept, const std::vector<ObservedRange>& added);

CommitResult commit_strict(RecordTree::Impl& tree, const Turn& turn, std::int64_t path_tokens, std::int64_t new_tokens);
CommitResult commit_as_verifiers(RecordTree::Impl& tree, const Turn& turn, std::int64_t path_tokens,
                                 std::int64_t new_tokens);

}  // namespace switchyard
