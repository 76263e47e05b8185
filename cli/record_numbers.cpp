// Numbers about the rows of a store.
#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include "progress.hpp"
#include "record.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int64_t kReadRows = 4096;
constexpr std::int64_t kParts = 32;
constexpr std::int64_t kSuspicious = 8;

// A row at its position, by its hash: equal ones of different sequences stand side by side once sorted.
struct RowHash {
  std::size_t hash = 0;
  std::size_t sequence = 0;
};

class Counter {
 public:
  Counter(const RecordStore& store, SchemaNumbers& numbers, Progress& progress, std::int64_t& done, std::int64_t of)
      : store_(store), numbers_(numbers), progress_(progress), done_(done), of_(of) {
    std::int64_t longest = 0;
    for (const SequenceNumbers& s : numbers.sequences) longest = std::max(longest, s.sequence.rows);
    part_rows_ = std::max<std::int64_t>(1, (longest + kParts - 1) / kParts);
    for (std::int64_t begin = 0; begin < longest; begin += part_rows_) {
      numbers.parts.push_back({begin, std::min(longest, begin + part_rows_), 0, 0});
    }
    const auto experts = static_cast<std::size_t>(numbers.schema.experts);
    numbers.load.assign(numbers.schema.layers.size(), std::vector<std::int64_t>(experts, 0));
    part_load_.assign(numbers.parts.size() * numbers.schema.layers.size() * experts, 0);
  }

  void count() {
    for (std::size_t i = 0; i < numbers_.sequences.size(); ++i) count_sequence(i);
    count_repeated();
    rate_parts();
  }

 private:
  void count_sequence(std::size_t index) {
    SequenceNumbers& s = numbers_.sequences[index];
    const std::size_t row_bytes = record_row_bytes(numbers_.schema);
    const std::int64_t own = s.sequence.parent == 0 ? 0 : s.sequence.parent_rows;
    std::vector<std::byte> last(row_bytes);
    EqualRun run{s.sequence.key, 0, 0};
    std::int64_t observed = 0;
    for (std::int64_t begin = own; begin < s.sequence.rows; begin += kReadRows) {
      const std::int64_t end = std::min(s.sequence.rows, begin + kReadRows);
      ids_.resize(static_cast<std::size_t>(end - begin) * row_bytes);
      valid_.resize(static_cast<std::size_t>(end - begin));
      store_.read(s.sequence.id, begin, end, {}, RecordLayout::rows_first, ids_.data(), valid_.data());
      for (std::int64_t p = begin; p < end; ++p) {
        const auto at = static_cast<std::size_t>(p - begin);
        const std::byte* row = ids_.data() + at * row_bytes;
        const bool equal = valid_[at] != 0 && run.rows > 0 && std::memcmp(row, last.data(), row_bytes) == 0;
        if (!equal) end_run(run);
        if (valid_[at] == 0) continue;
        if (!equal) {
          run.begin = p;
          std::memcpy(last.data(), row, row_bytes);
        }
        ++run.rows;
        ++observed;
        add_row(row, p, index);
      }
      done_ += end - begin;
      progress_.show(done_, of_);
    }
    end_run(run);
    s.inherited = s.sequence.observed - observed;
    numbers_.rows += observed;
    numbers_.missing += s.sequence.rows - s.sequence.observed;
  }

  void end_run(EqualRun& run) {
    if (run.rows > kSuspicious) numbers_.runs.push_back(run);
    run.rows = 0;
  }

  void add_row(const std::byte* row, std::int64_t position, std::size_t sequence) {
    const RecordSchema& schema = numbers_.schema;
    const auto part = static_cast<std::size_t>(position / part_rows_);
    ++numbers_.parts[part].rows;
    const std::size_t id_bytes = dtype_bytes(record_id_type(schema));
    const auto experts = static_cast<std::size_t>(schema.experts);
    const std::byte* from = row;
    for (std::size_t l = 0; l < schema.layers.size(); ++l) {
      for (std::int32_t k = 0; k < schema.topk; ++k, from += id_bytes) {
        std::uint16_t id = 0;
        std::memcpy(&id, from, id_bytes);
        ++numbers_.load[l][id];
        ++part_load_[(part * schema.layers.size() + l) * experts + id];
      }
    }
    const std::string_view bytes(reinterpret_cast<const char*>(row), record_row_bytes(schema));
    const auto salt = static_cast<std::size_t>(position) * 0x9E3779B97F4A7C15;
    hashes_.push_back({std::hash<std::string_view>{}(bytes) ^ salt, sequence});
  }

  void count_repeated() {
    std::sort(hashes_.begin(), hashes_.end(), [](const RowHash& a, const RowHash& b) { return a.hash < b.hash; });
    for (std::size_t first = 0; first < hashes_.size();) {
      std::size_t end = first + 1;
      while (end < hashes_.size() && hashes_[end].hash == hashes_[first].hash) ++end;
      // A sequence has a position once, so these are of different ones.
      for (std::size_t i = first; end - first > 1 && i < end; ++i) ++numbers_.sequences[hashes_[i].sequence].repeated;
      first = end;
    }
  }

  void rate_parts() {
    const auto layers = numbers_.schema.layers.size();
    const auto experts = static_cast<std::size_t>(numbers_.schema.experts);
    for (std::size_t p = 0; p < numbers_.parts.size(); ++p) {
      PositionPart& part = numbers_.parts[p];
      const double mean = static_cast<double>(part.rows) * numbers_.schema.topk / static_cast<double>(experts);
      for (std::size_t l = 0; l < layers && part.rows > 0; ++l) {
        const auto begin = part_load_.begin() + static_cast<std::ptrdiff_t>((p * layers + l) * experts);
        const auto most = *std::max_element(begin, begin + static_cast<std::ptrdiff_t>(experts));
        part.imbalance += static_cast<double>(most) / mean / static_cast<double>(layers);
      }
    }
  }

  const RecordStore& store_;
  SchemaNumbers& numbers_;
  Progress& progress_;
  std::int64_t& done_;
  std::int64_t of_;
  std::int64_t part_rows_ = 1;
  std::vector<std::int64_t> part_load_;  // [parts][L][E]
  std::vector<RowHash> hashes_;
  std::vector<std::byte> ids_;
  std::vector<std::uint8_t> valid_;
};

}  // namespace

RecordNumbers count_record(const RecordStore& store) {
  RecordNumbers numbers;
  numbers.store = store.stats();
  std::int64_t of = 0;
  for (const RecordSequence& sequence : store.sequences()) {
    const RecordSchema schema = store.schema(sequence.id);
    auto at = std::find_if(numbers.schemas.begin(), numbers.schemas.end(),
                           [&](const SchemaNumbers& known) { return known.schema == schema; });
    if (at == numbers.schemas.end()) {
      numbers.schemas.emplace_back().schema = schema;
      at = numbers.schemas.end() - 1;
    }
    at->sequences.push_back({sequence, 0, 0});
    of += sequence.rows - sequence.parent_rows;
  }
  Progress progress("counting: row");
  std::int64_t done = 0;
  for (SchemaNumbers& schema : numbers.schemas) Counter(store, schema, progress, done, of).count();
  return numbers;
}

}  // namespace switchyard::cli
