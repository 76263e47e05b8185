#include <simdjson.h>

#include "fail.hpp"
#include "record/outline.hpp"
#include "record/payload_parts.hpp"
#include "switchyard/payload.hpp"

namespace switchyard {
namespace {

namespace json = simdjson::ondemand;

constexpr int kMostDepth = 64;
constexpr std::string_view kStartKey = "routed_experts_start_len";

// Throws bad_data, or what simdjson does.
class Finder {
 public:
  Finder(const Outline& outline, const PayloadHints& hints, std::vector<FoundPayload>& found)
      : outline_(outline), hints_(hints), found_(found) {}

  void document(json::document& document) {
    switch (document.type().value()) {
      case json::json_type::object:
        object(document.get_object(), {0, false, 0});
        break;
      case json::json_type::array:
        array(document.get_array(), {0, false, 0});
        break;
      default:
        fail(Code::bad_data, "payload: the body is a single JSON value, expected an object or a list of them");
    }
    if (document.current_location().error() == simdjson::SUCCESS) {
      fail(Code::bad_data, "payload: the body goes on after its JSON value, expected one");
    }
  }

 private:
  struct Place {
    std::int64_t choice;
    bool in_list;
    int depth;
  };

  static Place inside(Place place) {
    if (place.depth == kMostDepth) {
      fail(Code::bad_data, "payload: the body is nested more than {} deep", kMostDepth);
    }
    return {place.choice, place.in_list, place.depth + 1};
  }

  template <class Take>
  static void items(json::array list, Place place, const Take& take) {
    std::int64_t i = 0;
    for (json::value item : list) {
      take(item, Place{place.in_list ? place.choice : i, true, place.depth});
      ++i;
    }
  }

  void array(json::array list, Place place) {
    items(list, inside(place), [&](json::value item, Place at) { value(item, at); });
  }

  void value(json::value item, Place place) {
    switch (item.type().value()) {
      case json::json_type::object:
        return object(item.get_object(), place);
      case json::json_type::array:
        return array(item.get_array(), place);
      case json::json_type::boolean:
        item.get_bool().value();
        return;
      case json::json_type::null:
        return null(item);
      default:
        return;
    }
  }

  static void null(json::value item) {
    if (!item.is_null()) {
      fail(Code::bad_data, "payload: the body has a value that is none of JSON");
    }
  }

  void object(json::object object, Place place) {
    const Place at = inside(place);
    const std::size_t first = found_.size();
    std::size_t last = first;  // payloads of this object itself, not of what is inside
    std::int64_t start = 0;
    bool has_start = false;
    for (json::field field : object) {
      const std::string_view key = field.unescaped_key();
      if (is_payload_key(key)) {
        payload(field.value(), at);
        last = found_.size();
      } else if (key == kStartKey && field.value().type() == json::json_type::number) {
        start = field.value().get_int64();
        has_start = true;
      } else {
        value(field.value(), at);
      }
    }
    for (std::size_t i = first; has_start && i < last; ++i) {
      found_[i].payload.start = start;
    }
  }

  void payload(json::value item, Place place) {
    switch (item.type().value()) {
      case json::json_type::string:
        return add(place, text_payload(outline_.body_string(item.raw_json_token())));
      case json::json_type::object:
        return add(place, object_payload(item.get_object()), true);
      case json::json_type::array:
        if (const auto lists = outline_.body_lists(item.raw_json_token())) {
          add(place, lists_payload(*lists));
        }
        return items(item.get_array(), inside(place), [&](json::value each, Place at) { payload(each, at); });
      case json::json_type::null:
        return null(item);
      default:
        fail(Code::bad_data, "payload: routed experts are a number or a boolean, expected text, an object or lists");
    }
  }

  void add(Place place, Payload payload, bool has_start = false) {
    if (!has_start) {
      payload.start = hints_.start;
    }
    if (payload.layer_ids.empty() && static_cast<std::int64_t>(hints_.layer_ids.size()) == payload.layers) {
      payload.layer_ids = hints_.layer_ids;
    }
    check_payload_size(payload);
    found_.push_back({place.choice, std::move(payload)});
  }

  Payload text_payload(std::string_view text) const {
    if (text.starts_with(kEnvelopePrefix)) {
      return envelope_payload(text);
    }
    if (text.starts_with(kNpyPrefix)) {
      return npy_payload(PayloadForm::base64, text);
    }
    if (hints_.layers < 1 || hints_.topk < 1) {
      fail(Code::bad_data, "payload: {} characters of ids without a shape, expected hints with layers and topk",
           text.size());
    }
    return flat_payload(PayloadForm::base64, hints_.dtype, hints_.layers, hints_.topk, text);
  }

  Payload object_payload(json::object object) const {
    Payload payload;
    payload.form = PayloadForm::base64;
    payload.start = hints_.start;
    bool has_data = false;
    bool has_shape = false;
    for (json::field field : object) {
      const std::string_view key = field.unescaped_key();
      json::value item = field.value();
      if (key == "data") {
        if (item.type() != json::json_type::string) {
          fail(Code::bad_data, "payload: data is no string, expected base64");
        }
        payload.data = outline_.body_string(item.raw_json_token());
        has_data = true;
      } else if (key == "shape") {
        read_shape(item.get_array(), payload);
        has_shape = true;
      } else if (key == "dtype") {
        payload.dtype = read_type(item.get_string());
      } else if (key == "start") {
        payload.start = item.get_int64();
      } else if (key == "layer_indices") {
        payload.layer_ids = read_layers(item.get_array());
      }
    }
    if (!has_data || !has_shape) {
      fail(Code::bad_data, "payload: an object without {}, expected data and shape", has_data ? "shape" : "data");
    }
    return payload;
  }

  static void read_shape(json::array shape, Payload& payload) {
    std::int64_t* const sizes[] = {&payload.rows, &payload.layers, &payload.topk};
    std::size_t count = 0;
    for (json::value size : shape) {
      if (count < std::size(sizes)) {
        *sizes[count] = size.get_int64();
      }
      ++count;
    }
    if (count != std::size(sizes)) {
      fail(Code::bad_data, "payload: a shape of {} sizes, expected rows, layers and topk", count);
    }
  }

  static DType read_type(std::string_view name) {
    const std::optional<DType> dtype = parse_id_type(name);
    if (!dtype) {
      fail(Code::bad_data, "payload: dtype '{}', expected int8, uint8, int16, uint16, int32 or int64", name);
    }
    return *dtype;
  }

  static std::vector<std::int32_t> read_layers(json::array list) {
    std::vector<std::int32_t> layers;
    for (json::value item : list) {
      const std::int64_t layer = item.get_int64();
      if (layer < 0 || layer > std::numeric_limits<std::int32_t>::max()) {
        fail(Code::bad_data, "payload: layer index {}, expected one of a model", layer);
      }
      layers.push_back(static_cast<std::int32_t>(layer));
    }
    return layers;
  }

  const Outline& outline_;
  const PayloadHints& hints_;
  std::vector<FoundPayload>& found_;
};

}  // namespace

std::vector<FoundPayload> find_payloads(std::string_view body, const PayloadHints& hints) {
  const Outline outline(body);
  std::vector<FoundPayload> found;
  try {
    json::parser parser;
    json::document document = parser.iterate(
        simdjson::padded_string_view(outline.text().data(), outline.text().size(), outline.text().capacity()));
    Finder(outline, hints, found).document(document);
  } catch (const simdjson::simdjson_error& error) {
    fail(Code::bad_data, "payload: the body is no JSON that can be read: {}", error.what());
  }
  return found;
}

}  // namespace switchyard
