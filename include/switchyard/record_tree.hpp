// RecordTree: the routing of conversations that share prefixes.
//
// A node is what one message added to a conversation: some tokens, and their rows. A path from a root to a node is a
// prefix that an engine has seen; its tokens have positions 0, 1, … A turn hands over the rows of some positions, and
// adds nodes. A row is observed or missing, which is a state beside its ids: nothing that was made up is ever kept as if
// it had been observed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_rows.hpp"

namespace switchyard {

// How rows become those of nodes.
enum class Attribution : std::int32_t {
  // As said at RecordTree::commit.
  strict = 0,
  // Row for row what verifiers does (v1/graph.py before its #2616): a node gets all of its rows or none; the last node
  // may lack its last row, and then reads as if the row before it were repeated; negative starts shift, surplus rows are
  // dropped. Rows of the prefix stay as they are.
  verifiers = 1,
  // The same since #2616: a turn that carries the last row of its prefix puts it there, whatever was there, if the last
  // node with tokens of the prefix is sampled and has rows.
  verifiers_repaired = 2,
};

// What happens to rows of a turn that belong to its prefix (strict only). Observed rows are never overwritten.
enum class Overlap : std::int32_t {
  ignore = 0,   // they are not read
  fill = 1,     // those that the prefix lacks are filled in, the others not read
  compare = 2,  // and the others are read too; where they differ, the first is kept and the conflict counted
  // And where they differ and stem from another policy version, the prefix is forked from that node on: copies of its
  // nodes get the turn's rows, and the turn's nodes follow the copies.
  fork = 3,
};

struct NewNode {
  std::int64_t tokens = 0;
  std::uint64_t hash = 0;  // of the tokens, or 0; only compared by RecordTree::find
  bool sampled = false;    // a model made tokens of it; Attribution::verifiers_repaired asks for it
};

struct Turn {
  std::int64_t parent = -1;    // node that the turn continues; −1: it starts a conversation
  std::vector<NewNode> nodes;  // in order, each the parent of the next; none: the turn only fills in rows
  std::int64_t start = 0;      // position of row 0
  RecordRows rows;             // those of positions start, start + 1, …; no `read`: nothing was captured
  std::int64_t policy_version = 0;
  std::int64_t max_missing = 1;  // final rows that may be absent: no engine returns the row of the last token
  Overlap overlap = Overlap::compare;
};

struct CommitResult {
  std::int64_t leaf = -1;           // node where the turn's path ends
  std::vector<std::int64_t> nodes;  // of the turn, in order
  std::int64_t forked = 0;          // nodes of the prefix that were copied
  std::int64_t filled = 0;          // rows of the prefix that were missing before
  std::vector<RowRange> conflicts;  // positions whose rows differ from those that were there
};

// Rows of a node that were observed, under one version of the policy.
struct ObservedRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t policy_version = 0;

  friend bool operator==(const ObservedRange&, const ObservedRange&) = default;
};

struct RecordNode {
  std::int64_t parent = -1;
  std::int64_t tokens = 0;
  std::uint64_t hash = 0;
  bool sampled = false;
  std::vector<ObservedRange> observed;  // ascending, apart from one another or of different versions
  std::int64_t conflicts = 0;           // rows that came again and differed
};

// Where a path of nodes is known: the node that it leads to (−1: none) and how many nodes that is.
struct KnownPrefix {
  std::int64_t node = -1;
  std::int64_t nodes = 0;
};

// One thread commits, or any number read. Node ids are 0, 1, … in the order of creation.
class SWITCHYARD_API RecordTree {
 public:
  // Throws as check_schema.
  explicit RecordTree(RecordSchema schema, Attribution attribution = Attribution::strict);
  ~RecordTree();
  RecordTree(RecordTree&&) noexcept;
  RecordTree& operator=(RecordTree&&) noexcept;

  const RecordSchema& schema() const noexcept;
  Attribution attribution() const noexcept;

  // Adds the turn's nodes below its parent; each owns the rows of its positions. Rows are read from the source straight
  // into the nodes, and only those that are needed; beside them less than 64 KiB is allocated, a few words per node
  // aside. Rows of a canonical schema are sorted. Throws invalid_argument (no such parent, negative numbers),
  // bad_data (rows beyond the last token; rows that begin behind the prefix; more than max_missing absent at the end;
  // what the source finds): the message has the positions, and the tree is what it was.
  CommitResult commit(const Turn& turn);

  std::int64_t nodes() const noexcept;
  // A view, until the next commit. These throw invalid_argument for a node that is not there.
  const RecordNode& node(std::int64_t node) const;
  std::vector<std::int64_t> path(std::int64_t node) const;  // from the root to the node; −1: empty
  std::int64_t path_tokens(std::int64_t node) const;
  std::vector<std::int64_t> leaves() const;  // nodes that are nobody's parent, ascending

  // The longest beginning of `path` that is known, from below `parent`: same tokens and hash. Of several nodes alike,
  // forks, the newest.
  KnownPrefix find(std::span<const NewNode> path, std::int64_t parent = -1) const;

  // Rows of a node, [tokens,L,K] of record_id_type, or null if none was observed. Those outside of its observed ranges
  // mean nothing.
  const void* rows(std::int64_t node) const;
  // Rows of a path, with what is missing of it. Reads from the tree, until its next commit or end.
  RecordRows branch(std::int64_t node) const;
  // The same without anything missing, or nothing. strict: all rows were observed. Otherwise: every node with tokens got
  // rows, and a last row that was absent reads as verifiers has it.
  std::optional<RowSource> whole_branch(std::int64_t node) const;

  std::size_t row_bytes() const noexcept;  // kept, of all nodes

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace switchyard
