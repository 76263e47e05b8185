// What the subcommands of `switchyard record` do, and numbers about a store.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "commands.hpp"
#include "engine.hpp"
#include "switchyard/record_store.hpp"

namespace switchyard::cli {

// A row of K experts per layer that is the same for more than 8 positions in a row: what a capture that stopped
// working looks like.
struct EqualRun {
  std::string sequence;
  std::int64_t begin = 0;
  std::int64_t rows = 0;
};

// One part of the positions of all sequences.
struct PositionPart {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t rows = 0;
  double imbalance = 0;  // the load of the busiest expert over the mean, averaged over the layers
};

struct SequenceNumbers {
  RecordSequence sequence;
  std::int64_t inherited = 0;  // observed rows that are a parent's
  std::int64_t repeated = 0;   // own rows that another sequence has at the same position
};

// All sequences of one schema.
struct SchemaNumbers {
  RecordSchema schema;
  std::vector<SequenceNumbers> sequences;
  std::vector<std::vector<std::int64_t>> load;  // [L][E]: rows, each once however many sequences share it
  std::vector<PositionPart> parts;
  std::vector<EqualRun> runs;
  std::int64_t rows = 0;     // observed, each once
  std::int64_t missing = 0;  // of the sequences' positions
};

struct RecordNumbers {
  StoreStats store;
  std::vector<SchemaNumbers> schemas;
};

// Reads every row. Progress goes to stderr if that is a terminal.
RecordNumbers count_record(const RecordStore& store);

// Throws io.
void write_record_report(const std::filesystem::path& path, const RecordOptions& options, const RecordNumbers& numbers);

// Of a store: .npy is one sequence [R,L,K] i32 with -1 for missing rows, .safetensors any, with a mask.
void export_record(const RecordOptions& options);
// Payloads in the bodies of responses, or .npy files.
void import_record(const RecordOptions& options);

// The routing of a run as a new sequence. check_: throws invalid_argument or io if that will not be possible, as far as
// it is known before the run.
void check_record_run(const RunOptions& options);
std::string record_run(const RunOptions& options, const ModelRun& run);  // the sequence's key

// `name`, or if there is one, "name 2", "name 3", …
std::string free_key(const RecordStore& store, const std::string& name);

}  // namespace switchyard::cli
