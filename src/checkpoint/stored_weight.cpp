#include "checkpoint/stored_weight.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "experts/weight_view.hpp"
#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::string_view kWeight = "weight";

bool is_plain(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }
bool is_byte(DType dtype) { return dtype == DType::i8 || dtype == DType::u8; }
bool is_power(DType dtype) { return dtype == DType::f8_e8m0 || dtype == DType::u8; }

std::int64_t ceil_div(std::int64_t value, std::int64_t by) { return value / by + (value % by != 0 ? 1 : 0); }

// "x.weight" → "x." + other; a name of another kind has no such neighbours.
std::string beside(const std::string& name, std::string_view other) {
  if (!name.ends_with(".weight")) return {};
  return name.substr(0, name.size() - kWeight.size()).append(other);
}

const Tensor* find_first(const TensorFile& file, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (const Tensor* tensor = name.empty() ? nullptr : file.find(name)) return tensor;
  }
  return nullptr;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return format_text("[{}]", fmt::join(shape, ",")); }

// A grid of scales: outputs and inputs that share one.
struct Block {
  std::int64_t out = 1;
  std::int64_t in = 1;
};
constexpr Block kTensor = {kWholeBlock, kWholeBlock};
constexpr Block kChannel = {1, kWholeBlock};
constexpr std::int64_t kMxBlock = 32;
constexpr std::int64_t kNvBlock = 16;

// Puts one weight together from the tensors that are there.
class Finder {
 public:
  Finder(const TensorFile& file, const std::string& file_name, const NamedShape& wanted,
         const Quantization& quantization)
      : file_(file), file_name_(file_name), wanted_(wanted), quantization_(quantization) {
    const std::size_t first = wanted.storage == Storage::stacked ? 1 : 0;
    is_matrix_ = wanted.shape.size() == first + 2;
    rows_ = wanted.shape[first];
    cols_ = is_matrix_ ? wanted.shape[first + 1] : 1;
    found_.held = wanted.held;
    found_.outs = outs();
    found_.ins = ins();
  }

  StoredWeight find() {
    if (const Tensor* tensor = take_codes(wanted_.name)) {
      if (is_plain(tensor->dtype)) return plain_weight(*tensor, wanted_);
      if (is_matrix_ && tensor->dtype == DType::f8_e4m3) return eight_bit(Codes::f8_e4m3);
      if (is_matrix_ && tensor->dtype == DType::i8 && tensor->shape == wanted_.shape) return eight_bit(Codes::i8);
      if (is_matrix_ && is_byte(tensor->dtype)) return four_bit_floats();
      fail(Code::not_supported, "tensors are {}, supported: f32, bf16, f16{}", dtype_name(tensor->dtype),
           is_matrix_ ? ", and with scales f8_e4m3, i8, u8" : "");
    }
    if (!is_matrix_) return found_;
    if (const Tensor* tensor = take_codes(wanted_.name + "_packed")) {
      return tensor->dtype == DType::i32 ? packed_integers() : four_bit_floats();
    }
    if (take_codes(wanted_.name + "_blocks") != nullptr) return blocks();
    if (take_codes(beside(wanted_.name, "qweight")) != nullptr) return gptq();
    return found_;
  }

 private:
  const Tensor* take_codes(const std::string& name) {
    found_.parts.codes = find_first(file_, {name});
    return found_.parts.codes;
  }

  bool in_out() const { return wanted_.orientation == Orientation::in_out; }
  std::int64_t outs() const { return in_out() ? cols_ : rows_; }
  std::int64_t ins() const { return in_out() ? rows_ : cols_; }

  std::vector<std::int64_t> stacked(std::vector<std::int64_t> shape) const {
    if (wanted_.storage == Storage::stacked) shape.insert(shape.begin(), found_.held);
    return shape;
  }

  void expect_shape(const Tensor& tensor, const std::vector<std::int64_t>& shape) const {
    if (tensor.shape == shape) return;
    fail(Code::bad_data, "model: {}: tensor {} has shape {}, expected {}", file_name_, tensor.name,
         shape_text(tensor.shape), shape_text(shape));
  }

  void expect_type(const Tensor& tensor, bool fits, std::string_view types) const {
    if (fits) return;
    fail(Code::bad_data, "model: {}: tensor {} is {}, expected {}", file_name_, tensor.name, dtype_name(tensor.dtype),
         types);
  }

  // Flattened stacks have no scales of their own for each matrix, and codes that share a byte follow the inputs.
  void expect_rows(bool four_bits) const {
    if (wanted_.storage == Storage::flattened || (four_bits && in_out())) {
      fail(Code::not_supported, "tensors are {} with {} codes, supported: plain numbers",
           in_out() ? "[in,out]" : "flattened", four_bits ? "4-bit" : "8-bit");
    }
  }

  const Tensor& scales(std::vector<std::string> names) const {
    std::erase(names, std::string());
    if (const Tensor* tensor = find_first(file_, names)) return *tensor;
    // Without a word in the configuration it may be something else altogether.
    if (quantization_.method.empty()) {
      fail(Code::not_supported, "tensors are {} without scales, supported without: f32, bf16, f16",
           dtype_name(found_.parts.codes->dtype));
    }
    fail(Code::bad_data, "model: {}: has no scales for tensor {}, expected a tensor named {}", file_name_,
         found_.parts.codes->name, fmt::join(names, " or "));
  }

  // p outputs' blocks and q inputs' blocks, in the orientation of the codes; a number alone stands for all.
  bool take_scales(const Tensor& tensor, Block block) {
    const std::int64_t p = ceil_div(outs(), block.out);
    const std::int64_t q = ceil_div(ins(), block.in);
    std::vector<std::int64_t> shape = tensor.shape;
    if (wanted_.storage == Storage::stacked && tensor.bytes != dtype_bytes(tensor.dtype)) {
      if (shape.empty() || shape[0] != found_.held) return false;
      shape.erase(shape.begin());
    }
    if (p == 1 && q == 1) {
      const bool one = std::all_of(shape.begin(), shape.end(), [](std::int64_t size) { return size == 1; });
      if (!one) return false;
    } else if (!(q == 1 && shape == std::vector{p})) {
      if (shape != (in_out() ? std::vector{q, p} : std::vector{p, q})) return false;
    }
    found_.parts.scales = &tensor;
    WeightScales& scales = found_.view.scales;
    scales.data = tensor.data;
    scales.dtype = tensor.dtype == DType::u8 ? DType::f8_e8m0 : tensor.dtype;
    scales.out_stride = in_out() ? 1 : q;
    scales.in_stride = in_out() ? p : 1;
    scales.out_block = block.out;
    scales.in_block = block.in;
    return true;
  }

  void take_one_of(const Tensor& tensor, const std::vector<Block>& blocks) {
    for (const Block& block : blocks) {
      if (take_scales(tensor, block)) return;
    }
    std::vector<std::string> shapes;
    for (const Block& block : blocks) {
      const std::int64_t p = ceil_div(outs(), block.out);
      const std::int64_t q = ceil_div(ins(), block.in);
      std::string shape = shape_text(stacked(in_out() ? std::vector{q, p} : std::vector{p, q}));
      if (std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(std::move(shape));
    }
    fail(Code::bad_data, "model: {}: tensor {} has shape {}, expected {}", file_name_, tensor.name,
         shape_text(tensor.shape), fmt::join(shapes, " or "));
  }

  StoredWeight eight_bit(Codes codes) {
    expect_rows(false);
    const Tensor& tensor =
        scales({wanted_.name + "_scale_inv", wanted_.name + "_scale", beside(wanted_.name, "scale")});
    expect_shape(*found_.parts.codes, wanted_.shape);
    expect_type(tensor, is_plain(tensor.dtype) || is_power(tensor.dtype), "f32, bf16, f16, f8_e8m0 or u8");
    std::vector<Block> blocks = {kTensor, kChannel};
    if (codes == Codes::f8_e4m3) {
      blocks.push_back({quantization_.block[0], quantization_.block[1]});
      if (is_power(tensor.dtype)) blocks.push_back({1, kMxBlock});
    } else {
      for (const std::int64_t group : quantization_.groups) blocks.push_back({1, group == 0 ? kWholeBlock : group});
    }
    take_one_of(tensor, blocks);
    return finish(codes, in_out() ? 1 : cols_, in_out() ? cols_ : 1);
  }

  // mxfp4 and nvfp4, told apart by the type of their scales.
  StoredWeight four_bit_floats() {
    const Tensor& codes = *found_.parts.codes;
    expect_rows(true);
    expect_type(codes, is_byte(codes.dtype), "i32, i8 or u8");
    const Tensor& tensor =
        scales({wanted_.name + "_scale", wanted_.name + "_scale_inv", beside(wanted_.name, "scale")});
    if (cols_ % 2 != 0) {
      fail(Code::bad_data, "model: {}: tensor {} holds two codes in a byte, found {} inputs, expected an even number",
           file_name_, codes.name, cols_);
    }
    expect_shape(codes, stacked({rows_, cols_ / 2}));
    expect_type(tensor, is_power(tensor.dtype) || tensor.dtype == DType::f8_e4m3, "f8_e8m0, u8 or f8_e4m3");
    take_one_of(tensor, {{1, tensor.dtype == DType::f8_e4m3 ? kNvBlock : kMxBlock}});
    if (tensor.dtype == DType::f8_e4m3) take_factor();
    return finish(Codes::f4_e2m1, cols_, 1);
  }

  void take_factor() {
    const std::string multiplies = wanted_.name + "_scale_2";
    const std::string divides = wanted_.name + "_global_scale";
    const Tensor* tensor = find_first(file_, {multiplies, divides});
    if (tensor == nullptr) {
      fail(Code::bad_data, "model: {}: has no factor for tensor {}, expected a tensor named {} or {}", file_name_,
           found_.parts.codes->name, multiplies, divides);
    }
    expect_type(*tensor, tensor->dtype == DType::f32, "f32");
    const auto count = static_cast<std::int64_t>(tensor->bytes / sizeof(float));
    if (count != 1 && count != found_.held) {
      fail(Code::bad_data, "model: {}: tensor {} has shape {}, expected {}", file_name_, tensor->name,
           shape_text(tensor->shape), shape_text(stacked({1})));
    }
    found_.parts.factor = tensor;
    found_.divides = tensor->name == divides;
  }

  // GPT-OSS: [out, in / 32, 16 bytes], always with inputs last.
  StoredWeight blocks() {
    const Tensor& codes = *found_.parts.codes;
    expect_rows(true);
    expect_type(codes, codes.dtype == DType::u8, "u8");
    if (cols_ % kMxBlock != 0) {
      fail(Code::bad_data, "model: {}: tensor {} holds blocks of 32 codes, found {} inputs, expected a multiple of 32",
           file_name_, codes.name, cols_);
    }
    expect_shape(codes, stacked({rows_, cols_ / kMxBlock, kMxBlock / 2}));
    const Tensor& tensor = scales({wanted_.name + "_scales"});
    expect_type(tensor, is_power(tensor.dtype), "u8 or f8_e8m0");
    take_one_of(tensor, {{1, kMxBlock}});
    return finish(Codes::f4_e2m1, cols_, 1);
  }

  // Groups of inputs as the configuration has them, or as many as divide the inputs evenly.
  std::vector<Block> group_blocks(const Tensor& tensor, std::size_t axis) const {
    std::vector<Block> blocks;
    for (const std::int64_t group : quantization_.groups) blocks.push_back({1, group == 0 ? kWholeBlock : group});
    if (blocks.empty()) {
      const std::int64_t groups = tensor.shape.size() > axis ? tensor.shape[axis] : 0;
      blocks.push_back({1, groups > 1 && cols_ % groups == 0 ? cols_ / groups : kWholeBlock});
    }
    return blocks;
  }

  // compressed-tensors: eight or four codes in an i32, offset by half their range; rows padded to whole numbers.
  StoredWeight packed_integers() {
    const Tensor& codes = *found_.parts.codes;
    expect_rows(true);
    if (file_.find(wanted_.name + "_zero_point") != nullptr) {
      fail(Code::not_supported, "the packed integers have zeros of their own, supported: symmetric ones");
    }
    if (file_.find(wanted_.name + "_g_idx") != nullptr) {
      fail(Code::not_supported, "the inputs of a group are not neighbours (g_idx), supported: groups in order");
    }
    const std::int64_t words = ceil_div(cols_, 8);
    const bool four = codes.shape != stacked({rows_, ceil_div(cols_, 4)}) || words == ceil_div(cols_, 4);
    expect_shape(codes, stacked({rows_, four ? words : ceil_div(cols_, 4)}));
    const Tensor& tensor = scales({wanted_.name + "_scale"});
    expect_type(tensor, is_plain(tensor.dtype), "f32, bf16 or f16");
    std::vector<Block> blocks = group_blocks(tensor, wanted_.storage == Storage::stacked ? 2 : 1);
    blocks.push_back(kChannel);
    take_one_of(tensor, blocks);
    if (const Tensor* outline = file_.find(wanted_.name + "_shape")) {
      expect_type(*outline, outline->dtype == DType::i64, "i64");
      if (wanted_.storage == Storage::single) expect_shape(*outline, {2});
      found_.parts.outline = wanted_.storage == Storage::single ? outline : nullptr;
    }
    return four ? finish(Codes::u4, words * 8, 1) : finish(Codes::u8, ceil_div(cols_, 4) * 4, 1);
  }

  // GPTQ: [in / 8, out] of eight codes along the inputs in an i32, or four; scales and zeros [groups, out].
  StoredWeight gptq() {
    const Tensor& codes = *found_.parts.codes;
    const std::int64_t run = 32 / quantization_.bits;
    if (wanted_.storage != Storage::single || in_out() || quantization_.method != "gptq") {
      fail(Code::not_supported, "tensors are named qweight, supported: of GPTQ, one for every expert");
    }
    expect_type(codes, codes.dtype == DType::i32, "i32");
    if (cols_ % run != 0 || rows_ % run != 0) {
      fail(Code::bad_data,
           "model: {}: tensor {} holds {} codes in an i32, found {} outputs and {} inputs, expected multiples",
           file_name_, codes.name, run, rows_, cols_);
    }
    expect_shape(codes, {cols_ / run, rows_});
    const Tensor& tensor = scales({beside(wanted_.name, "scales")});
    expect_type(tensor, is_plain(tensor.dtype), "f32, bf16 or f16");
    const Block group = group_blocks(tensor, 0).front();
    const std::int64_t groups = ceil_div(cols_, group.in);
    expect_shape(tensor, {groups, rows_});
    found_.parts.scales = &tensor;
    found_.view.scales = {tensor.data, tensor.dtype, 1, rows_, 1, group.in};
    take_zeros(groups, run);
    found_.parts.order = file_.find(beside(wanted_.name, "g_idx"));
    if (found_.parts.order != nullptr) {
      expect_type(*found_.parts.order, found_.parts.order->dtype == DType::i32, "i32");
      expect_shape(*found_.parts.order, {cols_});
    }
    finish(run == 8 ? Codes::u4 : Codes::u8, run, run * rows_);
    found_.view.in_run = run;
    return found_;
  }

  void take_zeros(std::int64_t groups, std::int64_t run) {
    const Tensor* tensor = file_.find(beside(wanted_.name, "qzeros"));
    if (tensor == nullptr) {
      fail(Code::bad_data, "model: {}: has no zeros for tensor {}, expected a tensor named {}", file_name_,
           found_.parts.codes->name, beside(wanted_.name, "qzeros"));
    }
    expect_type(*tensor, tensor->dtype == DType::i32, "i32");
    expect_shape(*tensor, {groups, rows_ / run});
    found_.parts.zeros = tensor;
    if (run == 8) found_.view.zeros = {tensor->data, 1, rows_, quantization_.zero_offset};
  }

  StoredWeight finish(Codes codes, std::int64_t out_stride, std::int64_t in_stride) {
    found_.view.data = found_.parts.codes->data;
    found_.view.codes = codes;
    found_.view.out_stride = out_stride;
    found_.view.in_stride = in_stride;
    return found_;
  }

  const TensorFile& file_;
  const std::string& file_name_;
  const NamedShape& wanted_;
  const Quantization& quantization_;
  bool is_matrix_ = false;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  StoredWeight found_;
};

// Bytes between two matrices of a stack; a tensor that all of them share has one element.
std::size_t step_of(const Tensor& tensor, const StoredWeight& weight) {
  if (tensor.bytes == dtype_bytes(tensor.dtype)) return 0;
  return tensor.bytes / static_cast<std::size_t>(weight.held);
}

// Symmetric GPTQ weights have zeros, too: 8 everywhere, which needs none.
bool are_all_eight(const Tensor& zeros, std::int32_t offset) {
  const auto two = static_cast<std::byte>((8 - offset) * 0x11);
  return std::all_of(zeros.data, zeros.data + zeros.bytes, [=](std::byte each) { return each == two; });
}

template <class T>
std::vector<T> values_of(const Tensor& tensor) {
  std::vector<T> values(tensor.bytes / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.data, tensor.bytes);
  return values;
}

}  // namespace

StoredWeight find_weight(const TensorFile& file, const std::string& file_name, const NamedShape& wanted,
                         const Quantization& quantization) {
  return Finder(file, file_name, wanted, quantization).find();
}

int fit_of(const TensorFile& file, const NamedShape& wanted) {
  if (const Tensor* tensor = file.find(wanted.name)) {
    if (tensor->shape == wanted.shape) return 2;
    std::vector<std::int64_t> halves = wanted.shape;
    halves.back() /= 2;
    const bool packed = is_byte(tensor->dtype) && wanted.orientation == Orientation::out_in;
    return packed && tensor->shape == halves ? 2 : 1;
  }
  if (find_first(file, {wanted.name + "_packed", beside(wanted.name, "qweight")}) != nullptr) return 2;
  if (file.find(wanted.name + "_blocks") == nullptr) return 0;
  return wanted.orientation == Orientation::out_in ? 2 : 1;  // the only one in which there are blocks
}

StoredWeight plain_weight(const Tensor& tensor, const NamedShape& wanted) {
  StoredWeight weight;
  weight.parts.codes = &tensor;
  weight.held = wanted.held;
  const bool stacked = wanted.storage == Storage::stacked;
  if (stacked && !tensor.shape.empty()) weight.held = tensor.shape[0];  // more than are wanted, maybe
  const std::size_t first = stacked ? 1 : 0;
  const std::int64_t cols = wanted.shape.size() > first + 1 ? wanted.shape[first + 1] : 1;
  weight.view = {tensor.data, tensor.dtype, cols, 1};
  if (wanted.orientation == Orientation::in_out) weight.view = {tensor.data, tensor.dtype, 1, cols};
  return weight;
}

std::string check_values(const StoredWeight& weight, const std::string& file_name, const Quantization& quantization) {
  const StoredWeight::Parts& parts = weight.parts;
  if (parts.outline != nullptr) {
    const std::vector<std::int64_t> found = values_of<std::int64_t>(*parts.outline);
    const std::vector<std::int64_t> expected = {weight.outs, weight.ins};
    if (found != expected) {
      fail(Code::bad_data, "model: {}: tensor {} holds {}, expected {}", file_name, parts.outline->name,
           shape_text(found), shape_text(expected));
    }
  }
  if (parts.order != nullptr) {
    const std::vector<std::int32_t> order = values_of<std::int32_t>(*parts.order);
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (order[i] == static_cast<std::int64_t>(i) / weight.view.scales.in_block) continue;
      return format_text("{} puts input {} in group {}, supported: groups in order", parts.order->name, i, order[i]);
    }
  }
  if (parts.zeros != nullptr && weight.view.codes == Codes::u8) {
    const int expected = 128 - quantization.zero_offset;
    for (const std::uint8_t zero : values_of<std::uint8_t>(*parts.zeros)) {
      if (zero != expected) return format_text("{} holds {}, supported: {}", parts.zeros->name, zero, expected);
    }
  }
  return {};
}

WeightView matrix_of(const StoredWeight& weight, std::int32_t index) {
  const auto at = static_cast<std::size_t>(index);
  WeightView view = weight.view;
  const StoredWeight::Parts& parts = weight.parts;
  view.data = parts.codes->data + at * step_of(*parts.codes, weight);
  if (parts.scales != nullptr) view.scales.data = parts.scales->data + at * step_of(*parts.scales, weight);
  if (parts.factor != nullptr) {
    float factor = 0;
    std::memcpy(&factor, parts.factor->data + at * step_of(*parts.factor, weight), sizeof factor);
    view.scales.factor = weight.divides ? 1.0F / factor : factor;
  }
  if (view.zeros.data != nullptr && are_all_eight(*parts.zeros, view.zeros.offset)) view.zeros = {};
  return view;
}

void release_matrix(const TensorFile& file, const StoredWeight& weight, std::int32_t index) {
  for (const Tensor* tensor : weight.tensors()) {
    if (tensor == nullptr) continue;
    const std::size_t step = step_of(*tensor, weight);
    file.release(tensor->data + static_cast<std::size_t>(index) * step, step == 0 ? tensor->bytes : step);
  }
}

}  // namespace switchyard
