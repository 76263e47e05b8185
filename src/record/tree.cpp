#include <algorithm>
#include <cstring>

#include "fail.hpp"
#include "record/tree_nodes.hpp"
#include "switchyard/route.hpp"

namespace switchyard {
namespace {

// Where the rows of a node begin on a path.
struct Part {
  std::int64_t begin;
  const std::byte* rows;
};

std::vector<Part> parts_of(const RecordTree::Impl& tree, const std::vector<std::int64_t>& path) {
  std::vector<Part> parts;
  std::int64_t begin = 0;
  for (const std::int64_t node : path) {
    const TreeNode& at = tree.at(node);
    if (at.node.tokens > 0) parts.push_back({begin, at.rows.get()});
    begin += at.node.tokens;
  }
  parts.push_back({begin, nullptr});
  return parts;
}

RowSource source_of(const RecordTree::Impl& tree, const std::vector<std::int64_t>& path) {
  std::vector<Part> parts = parts_of(tree, path);
  const std::int64_t rows = parts.back().begin;
  return {rows, [parts = std::move(parts), size = tree.row_size](std::int64_t begin, std::int64_t end, void* to) {
            auto part = std::upper_bound(parts.begin(), parts.end(), begin,
                                         [](std::int64_t row, const Part& p) { return row < p.begin; });
            auto* out = static_cast<std::byte*>(to);
            for (--part; begin < end; ++part) {
              const std::int64_t part_end = std::min(end, (part + 1)->begin);
              const auto bytes = static_cast<std::size_t>(part_end - begin) * size;
              std::memcpy(out, part->rows + static_cast<std::size_t>(begin - part->begin) * size, bytes);
              out += bytes;
              begin = part_end;
            }
          }};
}

void check_turn(const RecordTree::Impl& tree, const Turn& turn) {
  if (turn.parent < -1 || turn.parent >= static_cast<std::int64_t>(tree.nodes.size())) {
    fail(Code::invalid_argument, "tree: turn continues node {}, expected -1..{}", turn.parent,
         static_cast<std::int64_t>(tree.nodes.size()) - 1);
  }
  for (std::size_t i = 0; i < turn.nodes.size(); ++i) {
    if (turn.nodes[i].tokens < 0 || turn.nodes[i].tokens > kMaxTokens) {
      fail(Code::invalid_argument, "tree: new node {} has {} tokens, expected 0..{}", i, turn.nodes[i].tokens,
           kMaxTokens);
    }
  }
  const RecordRows& rows = turn.rows;
  if (rows.source.rows < 0 || rows.source.rows > kMaxTokens || (rows.source.rows > 0 && !rows.source.read)) {
    fail(Code::invalid_argument, "tree: turn has {} rows and {}, expected 0..{} and a function that reads them",
         rows.source.rows, rows.source.read ? "a function that reads them" : "no function that reads them", kMaxTokens);
  }
  if (!rows.observed.empty() && rows.observed.size() != static_cast<std::size_t>(rows.source.rows)) {
    fail(Code::invalid_argument, "tree: turn has {} states of {} rows, expected one per row", rows.observed.size(),
         rows.source.rows);
  }
  if (turn.overlap < Overlap::ignore || turn.overlap > Overlap::fork) {
    fail(Code::invalid_argument, "tree: found overlap {}, expected 0..3", static_cast<int>(turn.overlap));
  }
  if (turn.start < -kMaxTokens || turn.start > kMaxTokens || turn.max_missing < 0) {
    fail(Code::invalid_argument, "tree: turn starts at {} and may lack {} rows, expected a position and at least 0",
         turn.start, turn.max_missing);
  }
}

// Tokens of the turn's nodes, once a path of them is known not to be too long.
std::int64_t count_tokens(const Turn& turn, std::int64_t path_tokens) {
  std::int64_t tokens = 0;
  for (const NewNode& node : turn.nodes) {
    tokens += node.tokens;
    if (path_tokens + tokens > kMaxTokens) {
      fail(Code::invalid_argument, "tree: turn makes a path of {} tokens, expected at most {}", path_tokens + tokens,
           kMaxTokens);
    }
  }
  return tokens;
}

}  // namespace

const TreeNode& RecordTree::Impl::checked(std::int64_t node) const {
  if (node < 0 || node >= static_cast<std::int64_t>(nodes.size())) {
    fail(Code::invalid_argument, "tree: found node {}, expected 0..{}", node,
         static_cast<std::int64_t>(nodes.size()) - 1);
  }
  return at(node);
}

std::vector<std::int64_t> RecordTree::Impl::path(std::int64_t node) const {
  if (node != -1) checked(node);
  std::vector<std::int64_t> path;
  for (; node >= 0; node = at(node).node.parent) path.push_back(node);
  std::reverse(path.begin(), path.end());
  return path;
}

std::int64_t RecordTree::Impl::path_tokens(std::int64_t node) const {
  if (node != -1) checked(node);
  std::int64_t tokens = 0;
  for (; node >= 0; node = at(node).node.parent) tokens += at(node).node.tokens;
  return tokens;
}

std::unique_ptr<std::byte[]> RecordTree::Impl::make_rows(std::int64_t tokens) const {
  return std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(tokens) * row_size);
}

void RecordTree::Impl::read(const RowSource& source, std::int64_t begin, std::int64_t end, std::byte* to) const {
  source.read(begin, end, to);
  if (schema.order == SlotOrder::canonical) sort_slots(schema, to, end - begin);
}

std::vector<std::int64_t> RecordTree::Impl::add(std::int64_t parent, std::vector<TreeNode>&& added) {
  std::vector<std::int64_t> ids;
  ids.reserve(added.size());
  if (nodes.size() + added.size() > nodes.capacity()) {
    nodes.reserve(std::max(nodes.size() + added.size(), 2 * nodes.capacity()));
  }
  for (TreeNode& node : added) {
    node.node.parent = parent;
    parent = static_cast<std::int64_t>(nodes.size());
    ids.push_back(parent);
    nodes.push_back(std::move(node));
  }
  return ids;
}

std::vector<ObservedRange> overlay(const std::vector<ObservedRange>& kept, const std::vector<ObservedRange>& added) {
  std::vector<ObservedRange> pieces(added);
  auto first = added.begin();
  for (const ObservedRange& range : kept) {
    while (first != added.end() && first->end <= range.begin) ++first;
    std::int64_t begin = range.begin;
    for (auto cut = first; cut != added.end() && cut->begin < range.end; ++cut) {
      if (cut->begin > begin) pieces.push_back({begin, cut->begin, range.policy_version});
      begin = cut->end;
    }
    if (begin < range.end) pieces.push_back({begin, range.end, range.policy_version});
  }
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<ObservedRange> merged;
  for (const ObservedRange& piece : pieces) {
    if (!merged.empty() && merged.back().end == piece.begin && merged.back().policy_version == piece.policy_version) {
      merged.back().end = piece.end;
    } else {
      merged.push_back(piece);
    }
  }
  return merged;
}

RecordTree::RecordTree(RecordSchema schema, Attribution attribution) {
  check_schema(schema);
  if (attribution < Attribution::strict || attribution > Attribution::verifiers_repaired) {
    fail(Code::invalid_argument, "tree: found attribution {}, expected 0..2", static_cast<int>(attribution));
  }
  const std::size_t row_size = record_row_bytes(schema);
  impl_ = std::make_unique<Impl>(Impl{std::move(schema), attribution, row_size, {}});
}

RecordTree::~RecordTree() = default;
RecordTree::RecordTree(RecordTree&&) noexcept = default;
RecordTree& RecordTree::operator=(RecordTree&&) noexcept = default;

const RecordSchema& RecordTree::schema() const noexcept { return impl_->schema; }
Attribution RecordTree::attribution() const noexcept { return impl_->attribution; }
std::int64_t RecordTree::nodes() const noexcept { return static_cast<std::int64_t>(impl_->nodes.size()); }
const RecordNode& RecordTree::node(std::int64_t node) const { return impl_->checked(node).node; }
std::vector<std::int64_t> RecordTree::path(std::int64_t node) const { return impl_->path(node); }
std::int64_t RecordTree::path_tokens(std::int64_t node) const { return impl_->path_tokens(node); }
const void* RecordTree::rows(std::int64_t node) const { return impl_->checked(node).rows.get(); }

CommitResult RecordTree::commit(const Turn& turn) {
  check_turn(*impl_, turn);
  const std::int64_t path_tokens = impl_->path_tokens(turn.parent);
  const std::int64_t new_tokens = count_tokens(turn, path_tokens);
  return impl_->attribution == Attribution::strict ? commit_strict(*impl_, turn, path_tokens, new_tokens)
                                                   : commit_as_verifiers(*impl_, turn, path_tokens, new_tokens);
}

std::vector<std::int64_t> RecordTree::leaves() const {
  std::vector<std::uint8_t> has_child(impl_->nodes.size());
  for (const TreeNode& node : impl_->nodes) {
    if (node.node.parent >= 0) has_child[static_cast<std::size_t>(node.node.parent)] = 1;
  }
  std::vector<std::int64_t> leaves;
  for (std::size_t i = 0; i < has_child.size(); ++i) {
    if (has_child[i] == 0) leaves.push_back(static_cast<std::int64_t>(i));
  }
  return leaves;
}

KnownPrefix RecordTree::find(std::span<const NewNode> path, std::int64_t parent) const {
  if (parent != -1) impl_->checked(parent);
  KnownPrefix known{parent, 0};
  for (const NewNode& wanted : path) {
    const auto found = std::find_if(impl_->nodes.rbegin(), impl_->nodes.rend(), [&](const TreeNode& candidate) {
      const RecordNode& node = candidate.node;
      return node.parent == known.node && node.tokens == wanted.tokens && node.hash == wanted.hash;
    });
    if (found == impl_->nodes.rend()) break;
    known = {static_cast<std::int64_t>(impl_->nodes.rend() - found) - 1, known.nodes + 1};
  }
  return known;
}

RecordRows RecordTree::branch(std::int64_t node) const {
  impl_->checked(node);
  const std::vector<std::int64_t> path = impl_->path(node);
  RowSource source = source_of(*impl_, path);
  std::vector<std::uint8_t> observed(static_cast<std::size_t>(source.rows));
  std::uint8_t* begin = observed.data();
  for (const std::int64_t on_path : path) {
    const RecordNode& at = impl_->at(on_path).node;
    for (const ObservedRange& range : at.observed) {
      std::fill_n(begin + range.begin, range.end - range.begin, std::uint8_t{1});
    }
    begin += at.tokens;
  }
  return {std::move(source), std::move(observed)};
}

std::optional<RowSource> RecordTree::whole_branch(std::int64_t node) const {
  impl_->checked(node);
  const std::vector<std::int64_t> path = impl_->path(node);
  for (const std::int64_t on_path : path) {
    const TreeNode& at = impl_->at(on_path);
    std::int64_t observed = 0;
    for (const ObservedRange& range : at.node.observed) observed += range.end - range.begin;
    if (!at.attributed && observed < at.node.tokens) return std::nullopt;
  }
  return source_of(*impl_, path);
}

std::size_t RecordTree::row_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const TreeNode& node : impl_->nodes) {
    if (node.rows) bytes += static_cast<std::size_t>(node.node.tokens) * impl_->row_size;
  }
  return bytes;
}

}  // namespace switchyard
