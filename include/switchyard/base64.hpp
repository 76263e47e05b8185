// Base64 of RFC 4648, section 4: the standard alphabet, padded, without line breaks or anything else that is no part of
// it. No engine sends another kind, so white space, the URL alphabet and missing padding are damage here.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "switchyard/export.hpp"

namespace switchyard {

// Bytes that `text` decodes to, from its length and padding alone. Throws bad_data if the length is no multiple of 4.
SWITCHYARD_API std::size_t base64_bytes(std::string_view text);

// Decodes bytes begin..end−1 of those to `to`; 0 <= begin <= end <= base64_bytes(text). Reads the characters that hold
// them and no others. Throws bad_data for one outside the alphabet, for padding before the end, and for bits that
// the last character has beyond the last byte; bytes may have been written by then.
SWITCHYARD_API void decode_base64(std::string_view text, std::size_t begin, std::size_t end, void* to);

SWITCHYARD_API std::string encode_base64(std::span<const std::byte> bytes);

}  // namespace switchyard
