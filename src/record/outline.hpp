// Outline: a JSON text without what is long in it.
//
// Payloads are most of a body, and nothing about its structure is learned from reading them. So the outline leaves them
// out, and a parser sees the rest.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

// What payloads are values of.
bool is_payload_key(std::string_view key);

class Outline {
 public:
  // Throws bad_data for a string without end, and for lists of ids that are damaged.
  explicit Outline(std::string_view body);

  // With strings beyond kLongText characters and the lists of payload keys emptied, and room behind it.
  const std::string& text() const { return text_; }

  // What stands in the body where a string or list begins in the text: its characters between the quotes, or the list
  // with its brackets. `token` begins with the quote or bracket and lies in text().
  std::string_view body_string(std::string_view token) const;
  std::optional<std::string_view> body_lists(std::string_view token) const;

 private:
  struct Cut {
    std::size_t at;       // in the text
    std::size_t body_at;  // of what was left out
    std::size_t length;
  };

  std::size_t string_end(std::size_t begin, std::string_view key) const;
  std::size_t guess_end(std::size_t begin) const;
  std::size_t end_by_header(std::size_t begin) const;
  std::size_t end_by_shape_before(std::size_t begin) const;
  std::size_t end_by_shape_after(std::size_t begin) const;
  std::size_t skip_lists(std::size_t at);
  const Cut* cut_at(std::size_t at) const;

  std::string_view body_;
  std::string text_;
  std::vector<Cut> cuts_;
};

}  // namespace switchyard
