#include "record/outline.hpp"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "fail.hpp"
#include "record/lists.hpp"
#include "record/payload_parts.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kNone = std::string_view::npos;
constexpr std::size_t kLongText = 4096;
constexpr std::size_t kFar = std::size_t{256} << 10;  // from the end of the body, or of a later payload, to a shape
constexpr std::size_t kNear = 512;                    // from a payload's text to the other keys of its object
constexpr int kMostStepped = 64;                      // later payloads
constexpr std::string_view kShapeKey = "\"shape\"";

// Characters of the base64 of so many bytes; 0 where there are none, or too many to be.
std::size_t base64_length(std::size_t bytes) { return bytes > kMostPayloadBytes ? 0 : (bytes + 2) / 3 * 4; }

std::size_t skip_space_of(std::string_view text, std::size_t at) {
  return std::min(text.find_first_not_of(" \t\r\n", at), text.size());
}

// Whether the character after `at` and white space is `c`; moves behind it.
bool take(std::string_view text, std::size_t& at, char c) {
  const std::size_t place = skip_space_of(text, at);
  if (place >= text.size() || text[place] != c) {
    return false;
  }
  at = place + 1;
  return true;
}

// The number of ids of a shape, from behind its key; 0 if it is none.
std::size_t shape_ids(std::string_view text, std::size_t at) {
  if (!take(text, at, ':') || !take(text, at, '[')) {
    return 0;
  }
  std::size_t ids = 1;
  for (int i = 0; i < 3; ++i) {
    if (i > 0 && !take(text, at, ',')) {
      return 0;
    }
    at = skip_space_of(text, at);
    std::size_t size = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), size);
    if (error != std::errc() || __builtin_mul_overflow(ids, size, &ids) || ids > kMostPayloadBytes / 8) {
      return 0;
    }
    at = static_cast<std::size_t>(end - text.data());
  }
  return take(text, at, ']') ? ids : 0;
}

// Bytes of an id, by the dtype among other keys of an object; 0 if it names none.
std::size_t id_bytes_in(std::string_view keys) {
  constexpr std::string_view kKey = "\"dtype\"";
  std::size_t at = keys.find(kKey);
  if (at == kNone) {
    return 0;
  }
  at += kKey.size();
  if (!take(keys, at, ':') || !take(keys, at, '"')) {
    return 0;
  }
  const std::optional<DType> dtype = parse_id_type(keys.substr(at, keys.find('"', at) - at));
  return dtype ? dtype_bytes(*dtype) : 0;
}

bool is_inside_object(std::string_view text) { return text.find_first_of("{}") == kNone; }

}  // namespace

bool is_payload_key(std::string_view key) { return key == "routed_experts" || key == "moe_topk_indices"; }

Outline::Outline(std::string_view body) : body_(body) {
  std::size_t at = 0;
  std::string_view key;  // the last string
  for (;;) {
    const std::size_t quote = std::min(body.find('"', at), body.size());
    text_.append(body.substr(at, quote - at));
    if (quote == body.size()) {
      break;
    }
    const std::size_t begin = quote + 1;
    const std::size_t end = string_end(begin, key);
    text_ += '"';
    if (end - begin > kLongText) {
      cuts_.push_back({text_.size(), begin, end - begin});
      key = {};
    } else {
      key = body.substr(begin, end - begin);
      text_.append(key);
    }
    text_ += '"';
    at = is_payload_key(key) ? skip_lists(end + 1) : end + 1;
  }
  text_.reserve(text_.size() + simdjson::SIMDJSON_PADDING);
}

std::size_t Outline::string_end(std::size_t begin, std::string_view key) const {
  const std::size_t near = std::min(body_.size(), begin + kLongText);
  std::size_t at = begin;
  for (;;) {
    at = body_.substr(0, near).find_first_of("\"\\", at);
    if (at == kNone) {
      break;
    }
    if (body_[at] == '"') {
      return at;
    }
    at += 2;
  }
  if (near < body_.size() && (key == "data" || is_payload_key(key))) {
    const std::size_t end = guess_end(begin);
    if (end != kNone) {
      return end;
    }
  }
  // A quote behind an even number of backslashes.
  for (at = near;; ++at) {
    at = body_.find('"', at);
    if (at == kNone) {
      fail(Code::bad_data, "payload: the body ends inside of a string that begins at byte {}, expected the whole body",
           begin);
    }
    std::size_t first = at;
    while (first > begin && body_[first - 1] == '\\') {
      --first;
    }
    if ((at - first) % 2 == 0) {
      return at;
    }
  }
}

// The end of a payload's text by the length that its shape gives it, without reading it: kNone where there is no shape
// or the quote does not stand there. The shape must be the text's own, or in an undamaged body the quote could be
// another one's.
std::size_t Outline::guess_end(std::size_t begin) const {
  for (const auto way : {&Outline::end_by_header, &Outline::end_by_shape_before, &Outline::end_by_shape_after}) {
    const std::size_t end = (this->*way)(begin);
    if (end != kNone) {
      return end;
    }
  }
  return kNone;
}

std::size_t Outline::end_by_header(std::size_t begin) const {
  const std::string_view text = body_.substr(begin);
  std::size_t end = kNone;
  try {
    if (text.starts_with(kNpyPrefix)) {
      const NpyHeader header = npy_header_of(PayloadForm::base64, text.substr(0, kLongText));
      end = begin + base64_length(header.data_offset + header.data_bytes);
    } else if (text.starts_with(kEnvelopePrefix)) {
      const Payload payload = envelope_header(text);
      end = static_cast<std::size_t>(payload.data.data() - body_.data()) + base64_length(payload_id_bytes(payload));
    }
  } catch (const Error&) {
    return kNone;  // whoever reads the payload says what is wrong with it
  }
  return end < body_.size() && body_[end] == '"' ? end : kNone;
}

std::size_t Outline::end_by_shape_before(std::size_t begin) const {
  const std::string_view before = body_.substr(begin - std::min(begin, kNear), std::min(begin, kNear));
  const std::size_t object = before.rfind('{');
  const std::size_t shape = before.rfind(kShapeKey);
  if (object == kNone || shape == kNone || shape < object || !is_inside_object(before.substr(shape))) {
    return kNone;
  }
  const std::size_t ids = shape_ids(before, shape + kShapeKey.size());
  // The text has its true length or a larger one: a smaller one would end at one of its characters.
  for (const std::size_t id_bytes : {1, 2, 4, 8}) {
    const std::size_t end = begin + base64_length(ids * id_bytes);
    if (end > begin && end < body_.size() && body_[end] == '"') {
      return end;
    }
  }
  return kNone;
}

std::size_t Outline::end_by_shape_after(std::size_t begin) const {
  const std::string_view before = body_.substr(begin - std::min(begin, kNear), std::min(begin, kNear));
  const std::size_t object = before.rfind('{');
  const std::size_t id_bytes_before = object == kNone ? 0 : id_bytes_in(before.substr(object));
  std::size_t last = body_.size();
  for (int stepped = 0; stepped < kMostStepped; ++stepped) {
    const std::size_t window = std::max(begin, last - std::min(last, kFar));
    const std::size_t found = body_.substr(window, last - window).rfind(kShapeKey);
    if (found == kNone) {
      return kNone;
    }
    const std::size_t shape = window + found;
    const std::size_t ids = shape_ids(body_, shape + kShapeKey.size());
    const std::string_view after = body_.substr(shape, kNear);
    std::size_t id_bytes = id_bytes_in(after.substr(0, after.find('}')));
    const std::size_t between = shape - std::min(shape - begin, kNear);
    const std::size_t quoted = body_.substr(between, shape - between).find("\"dtype\"");
    if (id_bytes == 0 && quoted != kNone) {
      id_bytes = id_bytes_in(body_.substr(between + quoted, shape - between - quoted));
    }
    if (id_bytes == 0) {
      id_bytes = id_bytes_before == 0 ? 1 : id_bytes_before;
    }
    const std::size_t length = base64_length(ids * id_bytes);
    const std::size_t end = begin + length;
    if (length > 0 && end < shape && shape - end <= kNear && body_[end] == '"' &&
        is_inside_object(body_.substr(end, shape - end))) {
      return end;
    }
    // It is the shape of a later payload, which is stepped over.
    last = shape - std::min(length, shape - begin);
  }
  return kNone;
}

// Copies what stands between a payload's key and its value; if that is lists of ids, they are left out.
std::size_t Outline::skip_lists(std::size_t at) {
  std::size_t value = at;
  if (!take(body_, value, ':')) {
    return at;
  }
  std::size_t inside = value;
  if (!take(body_, inside, '[') || (!take(body_, inside, '[') && !take(body_, inside, ']'))) {
    return at;
  }
  if (body_[inside - 1] == '[' && !take(body_, inside, '[') && !take(body_, inside, ']')) {
    return at;
  }
  const std::size_t begin = skip_space_of(body_, value);
  const Lists lists = parse_lists(body_.substr(begin));
  text_.append(body_.substr(at, begin - at));
  text_ += '[';
  cuts_.push_back({text_.size(), begin + 1, lists.length - 2});
  text_ += ']';
  return begin + lists.length;
}

const Outline::Cut* Outline::cut_at(std::size_t at) const {
  const auto cut = std::lower_bound(cuts_.begin(), cuts_.end(), at,
                                    [](const Cut& each, std::size_t place) { return each.at < place; });
  return cut != cuts_.end() && cut->at == at ? &*cut : nullptr;
}

std::string_view Outline::body_string(std::string_view token) const {
  const auto at = static_cast<std::size_t>(token.data() - text_.data()) + 1;
  if (const Cut* cut = cut_at(at)) {
    return body_.substr(cut->body_at, cut->length);
  }
  // What follows a cut in the text follows it in the body.
  const auto after = std::lower_bound(cuts_.begin(), cuts_.end(), at,
                                      [](const Cut& each, std::size_t place) { return each.at < place; });
  std::size_t body_at = at;
  if (after != cuts_.begin()) {
    const Cut& before = *(after - 1);
    body_at = before.body_at + before.length + (at - before.at);
  }
  const std::size_t end = token.rfind('"');
  return body_.substr(body_at, end == 0 || end == kNone ? 0 : end - 1);
}

std::optional<std::string_view> Outline::body_lists(std::string_view token) const {
  const Cut* cut = cut_at(static_cast<std::size_t>(token.data() - text_.data()) + 1);
  if (cut == nullptr) {
    return std::nullopt;
  }
  return body_.substr(cut->body_at - 1, cut->length + 2);
}

}  // namespace switchyard
