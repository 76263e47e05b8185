// A weight as a checkpoint stores it: a plain tensor, or codes with the scales beside them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/families.hpp"
#include "checkpoint/quantization.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard {

// The tensor that a layer needs, as it would be if it were plain.
struct NamedShape {
  std::string name;                 // empty: there is no such tensor
  std::vector<std::int64_t> shape;  // -1: any
  Orientation orientation = Orientation::out_in;
  Storage storage = Storage::single;
  std::int64_t held = 1;  // experts in it
};

// One matrix or vector, or a stack of them that lie one after the other. Points into the file.
struct StoredWeight {
  // Everything that is read with it; null where there is none.
  struct Parts {
    const Tensor* codes = nullptr;  // or the plain tensor
    const Tensor* scales = nullptr;
    const Tensor* zeros = nullptr;
    const Tensor* factor = nullptr;   // f32, one for each of the stack or one for all
    const Tensor* order = nullptr;    // i32 [in], the group of each input
    const Tensor* outline = nullptr;  // i64 [2], the number of outputs and of inputs
  };
  Parts parts;
  WeightView view;  // of the first; the factor is not in it
  std::int64_t held = 1;
  bool divides = false;   // the factor
  std::int64_t outs = 0;  // of quantised ones
  std::int64_t ins = 0;

  std::array<const Tensor*, 6> tensors() const {
    return {parts.codes, parts.scales, parts.zeros, parts.factor, parts.order, parts.outline};
  }
};

// Finds a weight in any of its forms, by names, types and shapes; no codes: there is none, not in this file. A plain
// tensor's shape is not looked at. `file_name` is used in messages. Throws bad_data for parts that are missing
// or do not fit, and not_supported, with the reason alone, for what cannot be read.
StoredWeight find_weight(const TensorFile& file, const std::string& file_name, const NamedShape& wanted,
                         const Quantization& quantization);

// How well the tensor of the codes fits what is wanted: 0 if there is none, 1 by its name, 2 by its shape too.
int fit_of(const TensorFile& file, const NamedShape& wanted);

// A plain tensor of that shape, which may be held more than once in it.
StoredWeight plain_weight(const Tensor& tensor, const NamedShape& wanted);

// What only the values say: that groups are in order and zeros all alike, or why they cannot be read; empty: they can.
// Throws bad_data if the outline is not that of the codes.
std::string check_values(const StoredWeight& weight, const std::string& file_name, const Quantization& quantization);

// The matrix `index` of the stack. Reads its factor, and its zeros: where all are 8 the view has none.
WeightView matrix_of(const StoredWeight& weight, std::int32_t index);

// Lets go of the pages that hold it.
void release_matrix(const TensorFile& file, const StoredWeight& weight, std::int32_t index);

}  // namespace switchyard
