// What finding payloads and reading their rows share.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "record/lists.hpp"
#include "switchyard/npy.hpp"
#include "switchyard/payload.hpp"

namespace switchyard {

constexpr std::string_view kEnvelopePrefix = "nrlre1:";
constexpr std::string_view kNpyPrefix = "k05VTVBZ";  // base64 of what .npy files begin with
constexpr std::size_t kMostPayloadBytes = std::size_t{1} << 60;

// Bytes of all ids. Throws bad_data if the shape is not possible.
std::size_t payload_id_bytes(const Payload& payload);

// Of NumPy's names.
std::optional<DType> parse_id_type(std::string_view name);

// Both look at the beginning of the data alone, and throw bad_data for damage there.
NpyHeader npy_header_of(PayloadForm form, std::string_view data);
Payload envelope_header(std::string_view text);

// check_payload in two parts: without the lists, and with them.
void check_payload_size(const Payload& payload);
void check_payload_lists(const Payload& payload, const Lists& lists);

}  // namespace switchyard
