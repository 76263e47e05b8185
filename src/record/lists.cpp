#include "record/lists.hpp"

#include <charconv>

#include "fail.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kUnknown = -1;

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

class ListParser {
 public:
  ListParser(std::string_view text, Lists& lists) : text_(text), lists_(lists) {}

  void parse() {
    lists_.places.reserve(Lists::kMostPlaces);
    take('[');
    if (!try_take(']')) {
      std::int64_t layers = kUnknown;
      std::int64_t topk = kUnknown;
      lists_.rows = items([&](std::int64_t row) {
        skip_space();
        keep_place(row);
        same(layers, list([&](std::int64_t) { same(topk, list([&](std::int64_t) { number(); }), row); }), row);
      });
      lists_.layers = layers;
      lists_.topk = topk;
    }
    lists_.length = at_;
  }

 private:
  [[noreturn]] void damaged(std::string_view expected) const {
    if (at_ >= text_.size()) {
      fail(Code::bad_data, "payload: lists end at character {}, expected {}", text_.size(), expected);
    }
    fail(Code::bad_data, "payload: byte 0x{:02x} at character {} of the lists, expected {}",
         static_cast<unsigned char>(text_[at_]), at_, expected);
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) {
      ++at_;
    }
  }

  bool try_take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) {
      return false;
    }
    ++at_;
    return true;
  }

  void take(char c) {
    if (!try_take(c)) {
      damaged(c == '[' ? "a list" : "',' or ']'");
    }
  }

  // Items up to the closing bracket, at least one; returns how many.
  template <class Item>
  std::int64_t items(const Item& item) {
    std::int64_t count = 0;
    do {
      item(count++);
    } while (try_take(','));
    take(']');
    return count;
  }

  template <class Item>
  std::int64_t list(const Item& item) {
    take('[');
    return items(item);
  }

  static void same(std::int64_t& known, std::int64_t found, std::int64_t row) {
    if (known == kUnknown) {
      known = found;
    }
    if (known != found) {
      fail(Code::bad_data, "payload: a list of {} in row {}, expected {} as in those before", found, row, known);
    }
  }

  void number() {
    skip_space();
    std::int32_t value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc()) {
      damaged("an integer of 32 bits");
    }
    at_ = static_cast<std::size_t>(end - text_.data());
  }

  void keep_place(std::int64_t row) {
    if (row % lists_.step != 0) {
      return;
    }
    if (lists_.places.size() == Lists::kMostPlaces) {
      for (std::size_t i = 0; i < Lists::kMostPlaces / 2; ++i) {
        lists_.places[i] = lists_.places[2 * i];
      }
      lists_.places.resize(Lists::kMostPlaces / 2);
      lists_.step *= 2;
    }
    lists_.places.push_back(at_);
  }

  std::string_view text_;
  Lists& lists_;
  std::size_t at_ = 0;
};

}  // namespace

Lists parse_lists(std::string_view text) {
  Lists lists;
  ListParser(text, lists).parse();
  return lists;
}

std::int32_t ListCursor::next() {
  at_ = text_.find_first_of("-0123456789", at_);
  std::int32_t value = 0;
  if (at_ == std::string_view::npos) {
    fail(Code::bad_data, "payload: lists changed since they were parsed: expected {} rows", lists_.rows);
  }
  const char* end = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value).ptr;
  at_ = static_cast<std::size_t>(end - text_.data());
  ++id_;
  return value;
}

void ListCursor::read(std::int64_t first, std::int64_t count, std::int32_t* to) {
  const std::int64_t row_ids = lists_.layers * lists_.topk;
  const std::int64_t place = first / row_ids / lists_.step;
  if (first < id_ || place * lists_.step * row_ids > id_) {
    id_ = place * lists_.step * row_ids;
    at_ = lists_.places[static_cast<std::size_t>(place)];
  }
  while (id_ < first) {
    next();
  }
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = next();
  }
}

}  // namespace switchyard
