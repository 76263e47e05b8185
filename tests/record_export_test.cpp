// What ranks get, against a batch that is packed row by row and cut by index.
#include "switchyard/record_export.hpp"

#include <gtest/gtest.h>

#include <set>

#include "position_rows.hpp"

namespace {

using namespace position_rows;

const RecordSchema& schema() {
  static const RecordSchema kSchema = schema_of(24, 3, {0, 3, 4, 7, 9});
  return kSchema;
}

// A sequence whose rows are missing where its states say so.
struct Made {
  std::int64_t salt;
  std::vector<std::uint8_t> observed;

  std::int64_t rows() const { return static_cast<std::int64_t>(observed.size()); }
  RecordRows source() const {
    const auto read = [states = observed](std::int64_t begin, std::int64_t end) {
      for (; begin < end; ++begin) ASSERT_NE(states.at(static_cast<std::size_t>(begin)), 0) << "read a missing row";
    };
    return {source_of(schema(), 0, rows(), salt, read), observed};
  }
};

// Several with holes, tails, nothing, everything.
std::vector<Made> made_batch() {
  return {{0, {1, 1, 1, 1, 1, 1, 0}},
          {1, {}},
          {2, {0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0}},
          {3, {1}},
          {4, {0, 0, 0, 0}},
          {5, std::vector<std::uint8_t>(9, 1)}};
}

std::vector<RecordRows> sources(const std::vector<Made>& batch) {
  std::vector<RecordRows> all;
  for (const Made& made : batch) all.push_back(made.source());
  return all;
}

std::vector<std::int64_t> lengths(const std::vector<Made>& batch) {
  std::vector<std::int64_t> all;
  for (const Made& made : batch) all.push_back(made.rows());
  return all;
}

// A row of the packed batch.
struct Dense {
  std::int64_t sequence = -1;  // −1: padding of the batch
  std::int64_t position = 0;
  std::int64_t ordinal = 0;  // among rows without an observed one
};

struct Expected {
  std::vector<std::int64_t> cu_seqlens{0};
  std::vector<Dense> rows;
};

bool is_row(const std::vector<Made>& batch, const Dense& row) {
  return row.sequence >= 0 && row.position < batch[static_cast<std::size_t>(row.sequence)].rows();
}

bool is_observed(const std::vector<Made>& batch, const Dense& row) {
  return is_row(batch, row) &&
         batch[static_cast<std::size_t>(row.sequence)].observed[static_cast<std::size_t>(row.position)] != 0;
}

// The part of `all` that a context rank gets, row by row.
std::vector<Dense> cut(const std::vector<Dense>& all, const ExportOptions& o) {
  std::vector<Dense> rank;
  const auto n = static_cast<std::int64_t>(all.size());
  for (std::int64_t i = 0; i < n; ++i) {
    std::int64_t owner = i / std::max<std::int64_t>(1, n / o.context_ranks);
    if (o.context_split == ContextSplit::zigzag) {
      const std::int64_t chunk = i / (n / (2 * o.context_ranks));
      owner = std::min(chunk, 2 * o.context_ranks - 1 - chunk);
    }
    if (owner == o.context_rank) rank.push_back(all[static_cast<std::size_t>(i)]);
  }
  return rank;
}

Expected expected_of(const std::vector<Made>& batch, const ExportOptions& o) {
  Expected expected;
  const std::int64_t parts = o.context_ranks * (o.context_split == ContextSplit::zigzag ? 2 : 1);
  const bool by_sequence = o.context_unit == SplitUnit::sequence;
  std::int64_t ordinal = 0;
  std::vector<Dense> packed;
  for (std::size_t s = 0; s < batch.size(); ++s) {
    std::vector<Dense> rows;
    const auto count = [&] { return static_cast<std::int64_t>(rows.size()); };
    while (count() < batch[s].rows() || count() % o.sequence_multiple != 0 || (by_sequence && count() % parts != 0)) {
      rows.push_back({static_cast<std::int64_t>(s), count(), ordinal});
      if (!is_observed(batch, rows.back())) ++ordinal;
    }
    packed.insert(packed.end(), rows.begin(), rows.end());
    expected.cu_seqlens.push_back(static_cast<std::int64_t>(packed.size()));
    if (by_sequence) {
      const std::vector<Dense> mine = cut(rows, o);
      expected.rows.insert(expected.rows.end(), mine.begin(), mine.end());
    }
  }
  const auto fits = [&](std::int64_t n) { return n % o.tensor_ranks == 0 && n % o.batch_multiple == 0; };
  std::int64_t padding = 0;
  if (by_sequence) {
    while (!fits(static_cast<std::int64_t>(expected.rows.size()) + padding)) ++padding;
    for (std::int64_t i = 0; i < padding; ++i) {
      expected.rows.push_back({-1, 0, ordinal + o.context_rank * padding + i});
    }
  } else {
    for (auto n = static_cast<std::int64_t>(packed.size()); n % parts != 0 || !fits(n / o.context_ranks); ++n) {
      packed.push_back({-1, 0, ordinal++});
    }
    expected.rows = cut(packed, o);
  }
  const std::size_t each = expected.rows.size() / static_cast<std::size_t>(o.tensor_ranks);
  const auto first = expected.rows.begin() + static_cast<std::ptrdiff_t>(each) * o.tensor_rank;
  expected.rows = std::vector<Dense>(first, first + static_cast<std::ptrdiff_t>(each));
  return expected;
}

// The position of the row to repeat, or −1.
std::int64_t last_before(const std::vector<std::uint8_t>& observed, std::int64_t position) {
  for (std::int64_t p = std::min(position, static_cast<std::int64_t>(observed.size())) - 1; p >= 0; --p) {
    if (observed[static_cast<std::size_t>(p)] != 0) return p;
  }
  return -1;
}

Filler filler_of(const std::vector<Made>& batch, const Dense& row, const ExportOptions& o) {
  if (!is_row(batch, row)) return o.padding;
  const std::vector<std::uint8_t>& observed = batch[static_cast<std::size_t>(row.sequence)].observed;
  return std::find(observed.begin() + row.position, observed.end(), 1) == observed.end() ? o.tail : o.missing;
}

std::int64_t expected_id(const std::vector<Made>& batch, const Dense& row, std::int64_t layer, std::int64_t slot,
                         const ExportOptions& o, ReplayState& state) {
  if (is_observed(batch, row)) {
    state = ReplayState::observed;
    return id_of(schema(), row.position, layer, slot, batch[static_cast<std::size_t>(row.sequence)].salt);
  }
  state = ReplayState::filled;
  const Filler filler = filler_of(batch, row, o);
  if (filler == Filler::zero) return 0;
  if (filler == Filler::balanced) {
    const std::int64_t ranks = o.expert_ranks;
    const std::int64_t a = row.ordinal * 3 + slot + layer * ranks * 3;
    return (a % ranks) * (24 / ranks) + (a / ranks) % (24 / ranks);
  }
  if (filler == Filler::repeat_last && !batch.empty()) {
    const Made& made = row.sequence < 0 ? batch.back() : batch[static_cast<std::size_t>(row.sequence)];
    const std::int64_t last = last_before(made.observed, row.sequence < 0 ? made.rows() : row.position);
    if (last >= 0) return id_of(schema(), last, layer, slot, made.salt);
  }
  state = ReplayState::live;
  return filler == Filler::minus_one ? -1 : slot;
}

std::int64_t id_at(const std::vector<std::byte>& ids, DType dtype, std::size_t at) {
  const auto read = [&](auto value) {
    std::memcpy(&value, ids.data() + at * sizeof value, sizeof value);
    return static_cast<std::int64_t>(value);
  };
  switch (dtype) {
    case DType::u8:
      return read(std::uint8_t{});
    case DType::i16:
      return read(std::int16_t{});
    case DType::i32:
      return read(std::int32_t{});
    default:
      return read(std::int64_t{});
  }
}

struct Exported {
  ExportLayout layout;
  std::vector<std::byte> ids;
  std::vector<std::uint8_t> states;
};

// Into buffers of exactly the size, between bytes that have to stay.
Exported run_export(const std::vector<Made>& batch, const ExportOptions& options) {
  constexpr std::size_t kBorder = 64;
  constexpr auto kPoison = std::byte{0xa5};
  Exported out;
  out.layout = export_layout(schema(), lengths(batch), options);
  std::vector<std::byte> ids(out.layout.bytes + 2 * kBorder, kPoison);
  out.states.assign(static_cast<std::size_t>(out.layout.rows), 0xa5);
  const ExportLayout written =
      export_rows(schema(), sources(batch), options, ids.data() + kBorder, out.layout.bytes, out.states);
  EXPECT_EQ(written.cu_seqlens, out.layout.cu_seqlens);
  const auto poisoned = [](std::byte b) { return b == kPoison; };
  EXPECT_TRUE(std::all_of(ids.begin(), ids.begin() + kBorder, poisoned));
  EXPECT_TRUE(std::all_of(ids.end() - kBorder, ids.end(), poisoned));
  out.ids.assign(ids.begin() + kBorder, ids.end() - kBorder);
  return out;
}

void expect_export(const std::vector<Made>& batch, const ExportOptions& o) {
  const Expected expected = expected_of(batch, o);
  const Exported found = run_export(batch, o);
  ASSERT_EQ(found.layout.cu_seqlens, expected.cu_seqlens);
  ASSERT_EQ(found.layout.rows, static_cast<std::int64_t>(expected.rows.size()));
  ASSERT_EQ(found.layout.topk, 3);
  const std::vector<std::int32_t>& layers = o.layers.empty() ? schema().layers : o.layers;
  ASSERT_EQ(found.layout.layers, static_cast<std::int64_t>(layers.size()));
  ASSERT_EQ(found.layout.bytes, layers.size() * expected.rows.size() * 3 * dtype_bytes(o.dtype));
  std::size_t at = 0;
  for (const std::int32_t global : layers) {
    const std::int64_t layer =
        std::find(schema().layers.begin(), schema().layers.end(), global) - schema().layers.begin();
    for (std::size_t row = 0; row < expected.rows.size(); ++row) {
      for (std::int64_t slot = 0; slot < 3; ++slot, ++at) {
        ReplayState state{};
        const std::int64_t id = expected_id(batch, expected.rows[row], layer, slot, o, state);
        ASSERT_EQ(id_at(found.ids, o.dtype, at), id) << "layer " << global << " row " << row << " slot " << slot;
        ASSERT_EQ(found.states[row], static_cast<std::uint8_t>(state)) << "row " << row;
      }
    }
  }
}

const std::vector<std::vector<std::int32_t>>& stages_of(int stages) {
  static const std::vector<std::vector<std::vector<std::int32_t>>> kStages = {
      {{}}, {{0, 3}, {4, 7, 9}}, {{0}, {3, 4}, {7, 9}}, {{9}, {4, 7}, {3}, {0}}};
  return kStages[static_cast<std::size_t>(stages - 1)];
}

TEST(RecordExport, EveryRankGetsItsSliceOfTheBatch) {
  const std::vector<Made> batch = made_batch();
  const DType types[] = {DType::u8, DType::i16, DType::i32, DType::i64};
  const Filler fillers[] = {Filler::native, Filler::repeat_last, Filler::zero, Filler::balanced, Filler::minus_one};
  std::size_t turn = 0;
  ExportOptions o;
  for (const auto split : {ContextSplit::contiguous, ContextSplit::zigzag}) {
    for (const auto unit : {SplitUnit::sequence, SplitUnit::batch}) {
      for (const auto& [sequence_multiple, batch_multiple] : {std::pair{1, 1}, {4, 1}, {1, 6}, {3, 5}}) {
        for (int sizes = 0; sizes < 64; ++sizes) {
          o.context_split = split;
          o.context_unit = unit;
          o.sequence_multiple = sequence_multiple;
          o.batch_multiple = batch_multiple;
          o.context_ranks = sizes % 4 + 1;
          o.tensor_ranks = sizes / 4 % 4 + 1;
          o.expert_ranks = sizes % 3 == 0 ? 1 : 4;
          for (const auto& stage : stages_of(sizes / 16 + 1)) {
            for (int rank = 0; rank < o.context_ranks * o.tensor_ranks; ++rank, ++turn) {
              o.layers = stage;
              o.context_rank = rank % o.context_ranks;
              o.tensor_rank = rank / o.context_ranks;
              o.dtype = types[turn % 4];
              const std::size_t count = o.dtype == DType::u8 ? 4 : 5;  // u8 has no −1
              o.tail = fillers[turn % count];
              o.missing = fillers[(turn + turn / 5 + 1) % count];
              o.padding = fillers[(turn / 3 + 2) % count];
              ASSERT_NO_FATAL_FAILURE(expect_export(batch, o))
                  << "C " << o.context_ranks << " T " << o.tensor_ranks << " rank " << rank << " split "
                  << static_cast<int>(split) << " unit " << static_cast<int>(unit);
            }
          }
        }
      }
    }
  }
}

TEST(RecordExport, RanksTogetherHaveEachRowOnce) {
  // One layer and a salt per row, so that ids tell rows apart.
  const RecordSchema wide = schema_of(20000, 1, {2});
  std::vector<RecordRows> batch;
  std::multiset<std::int64_t> all;
  for (const std::int64_t length : {7, 0, 13, 1, 40}) {
    const auto salt = static_cast<std::int64_t>(batch.size());
    batch.push_back(source_of(wide, 0, length, salt));
    for (std::int64_t p = 0; p < length; ++p) all.insert(id_of(wide, p, 0, 0, salt));
  }
  for (const auto split : {ContextSplit::contiguous, ContextSplit::zigzag}) {
    for (const auto unit : {SplitUnit::sequence, SplitUnit::batch}) {
      for (int ranks = 1; ranks <= 16; ++ranks) {
        ExportOptions o;
        o.context_split = split;
        o.context_unit = unit;
        o.context_ranks = (ranks - 1) % 4 + 1;
        o.tensor_ranks = (ranks - 1) / 4 + 1;
        std::multiset<std::int64_t> found;
        for (int rank = 0; rank < o.context_ranks * o.tensor_ranks; ++rank) {
          o.context_rank = rank % o.context_ranks;
          o.tensor_rank = rank / o.context_ranks;
          std::vector<std::int32_t> ids(
              static_cast<std::size_t>(export_layout(wide, std::vector<std::int64_t>{7, 0, 13, 1, 40}, o).rows));
          std::vector<std::uint8_t> states(ids.size());
          export_rows(wide, batch, o, ids.data(), ids.size() * 4, states);
          for (std::size_t r = 0; r < ids.size(); ++r) {
            if (states[r] != 0) found.insert(ids[r]);
          }
        }
        EXPECT_EQ(found, all) << ranks;
      }
    }
  }
}

TEST(RecordExport, RepeatsTheLastRowAsVerifiersDoes) {
  const std::vector<Made> batch = {{0, {1, 1, 1, 0}}};
  ExportOptions o;
  o.tail = Filler::repeat_last;
  const Exported found = run_export(batch, o);
  EXPECT_EQ(found.states, (std::vector<std::uint8_t>{1, 1, 1, 2}));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(id_at(found.ids, o.dtype, 9 + i), id_at(found.ids, o.dtype, 6 + i));
}

TEST(RecordExport, BalancedRowsLoadEveryExpertAlike) {
  ExportOptions o;
  o.sequence_multiple = 32;
  o.padding = Filler::balanced;
  for (const std::int32_t expert_ranks : {1, 2, 8, 24}) {
    o.expert_ranks = expert_ranks;
    const Exported found = run_export({{0, std::vector<std::uint8_t>(24, 1)}}, o);
    for (std::size_t l = 0; l < 5; ++l) {
      std::vector<int> load(24);
      for (std::size_t r = 24; r < 32; ++r) {
        std::set<std::int64_t> row;
        for (std::size_t s = 0; s < 3; ++s) row.insert(id_at(found.ids, o.dtype, (l * 32 + r) * 3 + s));
        EXPECT_EQ(row.size(), 3U);
        for (const std::int64_t id : row) ++load.at(static_cast<std::size_t>(id));
      }
      EXPECT_EQ(load, std::vector<int>(24, 1)) << "layer " << l << ", " << expert_ranks << " expert ranks";
    }
  }
}

TEST(RecordExport, NothingIsFineToo) {
  ExportOptions o;
  o.batch_multiple = 4;
  EXPECT_EQ(run_export({}, o).layout.rows, 0);
  o.padding = Filler::repeat_last;
  expect_export({{0, {}}}, o);
  expect_export({{0, {1}}}, o);
}

TEST(RecordExport, LongSequencesPassThroughSmallMemory) {
  // More rows than a chunk holds, from a row in its middle.
  const RecordSchema big = schema_of(300, 8, {0, 1, 2, 3, 4, 5, 6, 7});
  const RecordRows rows = source_of(big, 0, 3000, 0, [](std::int64_t begin, std::int64_t end) {
    ASSERT_LE((end - begin) * 128, 65536);
    ASSERT_GE(begin, 1500);  // only the rank's rows
  });
  ExportOptions o;
  o.dtype = DType::i16;
  o.context_ranks = 2;
  o.context_rank = 1;
  o.layers = {6};
  std::vector<std::int16_t> ids(1500 * 8);
  std::vector<std::uint8_t> states(1500);
  export_rows(big, std::vector<RecordRows>{rows}, o, ids.data(), ids.size() * 2, states);
  for (std::size_t r = 0; r < 1500; ++r) {
    for (std::size_t s = 0; s < 8; ++s) {
      ASSERT_EQ(ids[r * 8 + s], id_of(big, 1500 + static_cast<std::int64_t>(r), 6, static_cast<std::int64_t>(s)));
    }
  }
}

std::string layout_error(const ExportOptions& options, const RecordSchema& of = schema()) {
  return error_of([&] { export_layout(of, std::vector<std::int64_t>{5}, options); });
}

TEST(RecordExport, NamesWhatContradictsItself) {
  const auto with = [](const auto& change) {
    ExportOptions o;
    change(o);
    return layout_error(o);
  };
  EXPECT_EQ(layout_error({}), "");
  EXPECT_EQ(with([](auto& o) { o.dtype = DType::f32; }),
            "invalid argument: export: found f32 ids, expected u8, i16, i32 or i64");
  EXPECT_EQ(with([](auto& o) {
              o.layers = {3, 5};
            }),
            "invalid argument: export: found layer 5, which the record does not have: expected some of 5 from 0 to 9");
  EXPECT_EQ(with([](auto& o) { o.context_rank = 1; }),
            "invalid argument: export: found context rank 1 of 1, expected 0..ranks-1 of 1..1048576");
  EXPECT_NE(with([](auto& o) { o.tensor_ranks = 0; }), "");
  EXPECT_NE(with([](auto& o) { o.sequence_multiple = 0; }), "");
  EXPECT_NE(with([](auto& o) { o.batch_multiple = -3; }), "");
  EXPECT_EQ(with([](auto& o) {
              o.padding = Filler::balanced;
              o.expert_ranks = 5;
            }),
            "invalid argument: export: found 5 expert ranks for 24 experts, expected a divisor");
  EXPECT_EQ(with([](auto& o) {
              o.dtype = DType::u8;
              o.tail = Filler::minus_one;
            }),
            "invalid argument: export: the tail is filled with -1 in u8, expected i16, i32 or i64");
  ExportOptions narrow;
  narrow.dtype = DType::u8;
  EXPECT_EQ(layout_error(narrow, schema_of(256)), "");
  EXPECT_EQ(layout_error(narrow, schema_of(257)),
            "invalid argument: export: found 257 experts for ids of u8, expected at most 256");
  narrow.dtype = DType::i16;
  EXPECT_EQ(layout_error(narrow, schema_of(32768)), "");
  EXPECT_NE(layout_error(narrow, schema_of(32769)), "");
  EXPECT_NE(error_of([] { export_layout(schema(), std::vector<std::int64_t>{-1}, {}); }), "");
  std::vector<std::int32_t> ids(5 * 5 * 3);
  std::vector<std::uint8_t> states(5);
  const std::vector<RecordRows> batch = {source_of(schema(), 0, 5)};
  EXPECT_EQ(error_of([&] { export_rows(schema(), batch, {}, ids.data(), ids.size() * 4 - 1, states); }),
            "invalid argument: export: found 299 bytes for ids and 5 for states, expected 300 and 5");
  EXPECT_EQ(error_of([&] { export_rows(schema(), batch, {}, ids.data(), ids.size() * 4, states); }), "");
}

TEST(RecordExport, ListsRequiredRowsThatAreMissing) {
  const Made made{0, {1, 0, 0, 1, 0, 1, 0}};
  const RecordRows rows = made.source();
  using Mask = std::vector<std::uint8_t>;
  // A token that counts needs the rows before it: its own acts on nothing.
  EXPECT_TRUE(missing_required_rows(rows, Mask{1, 0, 0, 0, 0, 0, 0}).empty());
  EXPECT_TRUE(missing_required_rows(rows, Mask{1, 1, 0, 0, 0, 0, 0}).empty());
  EXPECT_TRUE(missing_required_rows(rows, Mask(7, 0)).empty());
  EXPECT_EQ(missing_required_rows(rows, Mask{0, 0, 1, 0, 0, 0, 0}), (std::vector<RowRange>{{1, 2}}));
  EXPECT_EQ(missing_required_rows(rows, Mask{0, 0, 0, 0, 0, 0, 1}), (std::vector<RowRange>{{1, 3}, {4, 5}}));
  EXPECT_EQ(error_of([&] { check_required_rows(rows, Mask(7, 1), 12); }),
            "bad data: export: sequence 12 lacks 3 rows that act on its loss: 1..2, 4, expected all of them to be "
            "observed");
  EXPECT_EQ(error_of([&] { check_required_rows(rows, Mask{0, 1, 0, 0, 0, 0, 0}); }), "");
  EXPECT_EQ(error_of([&] { check_required_rows(rows, Mask(6, 0)); }),
            "invalid argument: export: found a loss mask of 6 tokens for 7 rows, expected as many");
  EXPECT_TRUE(missing_required_rows(source_of(schema(), 0, 3), Mask(3, 1)).empty());
}

}  // namespace
