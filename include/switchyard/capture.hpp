// Capture: the routing of an engine's forwards, as rows of sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_rows.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

// Tokens of a batch that follow one another in a sequence.
struct CaptureSpan {
  std::int64_t sequence = 0;  // any number of the caller's; negative: these tokens are not captured (padding)
  std::int64_t position = 0;  // of the first of them in the sequence
  std::int64_t tokens = 0;
};

// Collects what layers routed, forward by forward. A row is complete, and so observed, once every layer of the schema
// has given it K ids; one with a slot that is off (−1) stays missing. A layer that a row has already starts the row over:
// so a position that is run again, after a draft that was refused or a resumed request, gets the routing of the last run.
//
// A Layer stays immutable and knows nothing of sequences, so the caller appends what its forward returned:
//   const ForwardResult result = layer.forward(x, y, workspace);
//   capture.append(7, result.routing, spans);
//
// For one thread at a time; threads that run forwards of different sequences each use one of their own.
class SWITCHYARD_API Capture {
 public:
  // E of the schema counts every id that is routed to, identity experts included. Throws as check_schema.
  explicit Capture(RecordSchema schema);
  ~Capture();
  Capture(Capture&&) noexcept;
  Capture& operator=(Capture&&) noexcept;

  const RecordSchema& schema() const noexcept;

  // Makes room for the first `rows` rows of a sequence, which then grows no more while they are appended.
  void reserve(std::int64_t sequence, std::int64_t rows);

  // The routing of a batch by the layer with this global index: `spans` name its tokens in order, all of them. The ids are
  // copied, in the schema's order. Throws invalid_argument (layer, spans, K) and bad_data (an id outside −1..E−1), and
  // has captured nothing then.
  void append(std::int32_t layer, const Routing& routing, std::span<const CaptureSpan> spans);

  std::vector<std::int64_t> sequences() const;  // ascending
  // Rows 0..last position of a sequence. Reads from the capture, until its next change; a row that names an expert twice
  // is bad_data when it is read. Throws invalid_argument for a sequence that is not there.
  RecordRows rows(std::int64_t sequence) const;
  void forget(std::int64_t sequence);  // and frees its memory

  std::size_t bytes() const noexcept;  // of ids and states that are held

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace switchyard
