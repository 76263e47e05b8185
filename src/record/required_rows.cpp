#include <algorithm>
#include <string>

#include "fail.hpp"
#include "record/runs.hpp"
#include "switchyard/record_rows.hpp"

namespace switchyard {
namespace {

void check_mask(const RecordRows& rows, std::span<const std::uint8_t> loss_mask) {
  if (loss_mask.size() != static_cast<std::size_t>(rows.source.rows)) {
    fail(Code::invalid_argument, "export: found a loss mask of {} tokens for {} rows, expected as many",
         loss_mask.size(), rows.source.rows);
  }
}

}  // namespace

std::vector<RowRange> missing_required_rows(const RecordRows& rows, std::span<const std::uint8_t> loss_mask) {
  check_mask(rows, loss_mask);
  const auto last = std::find_if(loss_mask.rbegin(), loss_mask.rend(), [](std::uint8_t m) { return m != 0; });
  // The rows before the last token that counts.
  const std::int64_t required = std::max<std::int64_t>(0, loss_mask.rend() - last - 1);
  std::vector<RowRange> missing;
  for_each_run(rows, 0, required, [&](std::int64_t begin, std::int64_t end, bool observed) {
    if (!observed) missing.push_back({begin, end});
  });
  return missing;
}

void check_required_rows(const RecordRows& rows, std::span<const std::uint8_t> loss_mask, std::int64_t sequence) {
  constexpr std::size_t kListed = 8;
  const std::vector<RowRange> missing = missing_required_rows(rows, loss_mask);
  if (missing.empty()) return;
  std::string list;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < missing.size(); ++i) {
    const auto [begin, end] = missing[i];
    count += end - begin;
    if (i >= kListed) continue;
    list += (i > 0 ? ", " : "") + std::to_string(begin);
    if (end - begin > 1) list += ".." + std::to_string(end - 1);
  }
  if (missing.size() > kListed) list += ", ...";
  fail(Code::bad_data,
       "export: sequence {} lacks {} rows that act on its loss: {}, expected all of them to be observed", sequence,
       count, list);
}

}  // namespace switchyard
