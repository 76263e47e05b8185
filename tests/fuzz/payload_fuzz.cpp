// Bytes as a response's body, and as each kind of payload: whatever is found is inside of them and can be read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/payload.hpp"

namespace {

using namespace switchyard;

template <class Action>
void only_damage(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.code() != Code::bad_data && error.code() != Code::not_supported) std::abort();
  }
}

void read_rows(const Payload& payload, std::string_view body) {
  if (payload.data.data() < body.data() || payload.data.size() > body.size() ||
      static_cast<std::size_t>(payload.data.data() - body.data()) > body.size() - payload.data.size()) {
    std::abort();
  }
  only_damage([&] { check_payload(payload); });
  if (payload.topk < 1 || payload.topk > 64 || payload.layers < 1 || payload.layers > 1000) return;
  RecordSchema schema;
  schema.experts = payload.rows % 2 == 0 ? 256 : 300;
  schema.topk = static_cast<std::int32_t>(payload.topk);
  schema.order = payload.rows % 3 == 0 ? SlotOrder::canonical : SlotOrder::kept;
  // All layers, or from the second on.
  for (std::int32_t l = payload.layers > 2 ? 1 : 0; l < payload.layers; ++l) schema.layers.push_back(l);
  only_damage([&] {
    const RowSource source = rows_of(payload, schema);
    std::vector<std::byte> row(record_row_bytes(schema));
    for (std::int64_t r = 0; r < std::min<std::int64_t>(source.rows, 20); ++r) {
      only_damage([&] { source.read(source.rows - 1 - r, source.rows - r, row.data()); });
    }
    std::vector<RowState> states(static_cast<std::size_t>(std::min<std::int64_t>(source.rows, 100)));
    row_states(payload, schema, 0, static_cast<std::int64_t>(states.size()), states.data());
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(bytes), size);
  PayloadHints hints;
  hints.layers = 3;
  hints.topk = 2;
  hints.dtype = DType::i16;
  only_damage([&] {
    for (const FoundPayload& found : find_payloads(body, hints)) read_rows(found.payload, body);
  });
  only_damage([&] { read_rows(npy_payload(PayloadForm::raw, body), body); });
  only_damage([&] { read_rows(npy_payload(PayloadForm::base64, body), body); });
  only_damage([&] { read_rows(envelope_payload(body), body); });
  only_damage([&] { read_rows(lists_payload(body), body); });
  only_damage([&] { read_rows(flat_payload(PayloadForm::raw, DType::i8, 2, 3, body), body); });
  return 0;
}
