// Times the works of the routing record, each beside what it is measured by, all in one run.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/record_encoding.hpp"

namespace switchyard::cli {

// One work, ready to run.
struct RecordWork {
  double bytes = 0;  // that it makes
  std::function<void()> run;
  std::string beside;                 // what `other` is
  std::function<void()> other;        // the same result, or as many bytes, in another way
  std::function<double()> size = {};  // of what was stored, as a part of the ids' bytes; none: nothing was
};

// To add a work: a function that makes it, and its name in kRecordWorks.
struct NamedRecordWork {
  std::string_view name;
  RecordWork (*make)();
};

RecordWork make_base64_work();
RecordWork make_last_rows_work();
RecordWork make_narrowing_work();
RecordWork make_capture_work();
RecordWork make_export_work();
RecordWork make_append_kept_work();
RecordWork make_append_canonical_work();
RecordWork make_read_all_work();
RecordWork make_read_parts_work();
RecordWork make_decode_work(RecordEncoding encoding, std::int32_t experts, std::int32_t topk);
RecordWork make_decode_uneven_work();
template <RecordEncoding kEncoding, std::int32_t kExperts, std::int32_t kTopk>
RecordWork make_decode() {
  return make_decode_work(kEncoding, kExperts, kTopk);
}

inline constexpr NamedRecordWork kRecordWorks[] = {
    {"base64 decode, 42 MB", make_base64_work},
    {"last 100,001 of 1,000,000 rows, from the body", make_last_rows_work},
    {"58 of 61 layers as u8, from base64 of i32", make_narrowing_work},
    {"capture of a layer, 64 tokens of 64 sequences", make_capture_work},
    {"export of 8192 rows, 48 layers of u8 to i16", make_export_work},
    {"decode raw, 8 of 256", make_decode<RecordEncoding::raw, 256, 8>},
    {"decode packed, 8 of 384", make_decode<RecordEncoding::packed, 384, 8>},
    {"decode elias_fano, 8 of 256", make_decode<RecordEncoding::elias_fano, 256, 8>},
    {"decode elias_fano, 8 of 384", make_decode<RecordEncoding::elias_fano, 384, 8>},
    {"decode elias_fano, 10 of 512", make_decode<RecordEncoding::elias_fano, 512, 10>},
    {"decode raw_zstd, 8 of 384", make_decode<RecordEncoding::raw_zstd, 384, 8>},
    {"decode packed_zstd, 8 of 384", make_decode<RecordEncoding::packed_zstd, 384, 8>},
    {"decode elias_fano_zstd, 8 of 384", make_decode<RecordEncoding::elias_fano_zstd, 384, 8>},
    {"decode what a writer takes for uneven ids, 4 of 32", make_decode_uneven_work},
    {"append and commit 131072 x 58 x 8 of 256, order kept", make_append_kept_work},
    {"append and commit 131072 x 58 x 8 of 256, canonical", make_append_canonical_work},
    {"read 131072 x 58 x 8, canonical", make_read_all_work},
    {"1000 reads of 256 rows of one layer", make_read_parts_work},
};

// Medians of the rounds.
struct RecordBenchRow {
  std::string work;
  double ms = 0;
  double bytes = 0;
  double ratio = 0;  // time of what stands beside it / its time
  std::string beside;
  double size = 0;  // RecordWork::size; 0: none
};

// All of kRecordWorks, `repeat` rounds each; 0: as a second each allows.
std::vector<RecordBenchRow> bench_records(int repeat);

std::string bench_text(const std::vector<RecordBenchRow>& rows);

}  // namespace switchyard::cli
