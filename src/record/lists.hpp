// JSON lists of ids, [[[id, …], …], …]: their shape, and any of their rows without parsing all before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace switchyard {

struct Lists {
  std::int64_t rows = 0;
  std::int64_t layers = 0;
  std::int64_t topk = 0;
  std::size_t length = 0;  // characters, from the first bracket to the last
  // places[i]: where row i · step begins. At most kMostPlaces.
  std::int64_t step = 1;
  std::vector<std::size_t> places;

  static constexpr std::size_t kMostPlaces = 4096;
};

// Reads the lists that `text` begins with, up to their closing bracket. Throws bad_data unless they are three deep, of
// equal lengths, and hold integers of 32 bits.
Lists parse_lists(std::string_view text);

// Reads ids of lists that parse_lists has accepted, forwards; going back seeks. Not shared by threads.
class ListCursor {
 public:
  ListCursor(std::string_view text, const Lists& lists) : text_(text), lists_(lists) {}

  // Ids first..first+count−1 of the row-major [rows,layers,topk].
  void read(std::int64_t first, std::int64_t count, std::int32_t* to);

 private:
  std::int32_t next();

  std::string_view text_;
  const Lists& lists_;
  std::int64_t id_ = 0;  // the number of the next one
  std::size_t at_ = 0;
};

}  // namespace switchyard
