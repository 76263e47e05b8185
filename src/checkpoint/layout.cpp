#include "checkpoint/layout.hpp"

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace switchyard {
namespace {

std::string expert_name(const std::string& prefix, const char* name, std::int32_t expert) {
  return prefix + fmt::format(fmt::runtime(name), fmt::arg("expert", expert));
}

std::vector<std::int64_t> matrix_shape(const ExpertLayout& layout, const ExpertShape& shape, std::int64_t out,
                                       std::int64_t in) {
  if (layout.orientation == Orientation::in_out) std::swap(out, in);
  if (is_per_expert(layout)) return {out, in};
  return {shape.experts, out, in};
}

// [out,in] at `data`, whichever of the two is stored first.
WeightView matrix_view(const ExpertLayout& layout, const std::byte* data, DType dtype, std::int64_t out,
                       std::int64_t in) {
  if (layout.orientation == Orientation::in_out) return {data, dtype, 1, out};
  return {data, dtype, in, 1};
}

// Rows first, first + step, ... of a matrix.
WeightView every(WeightView view, std::int64_t first, std::int64_t step) {
  const auto offset = static_cast<std::size_t>(first * view.out_stride) * dtype_bytes(view.dtype);
  view.data = static_cast<const std::byte*>(view.data) + offset;
  view.out_stride *= step;
  return view;
}

}  // namespace

std::string layer_prefix(const char* prefix, std::int32_t layer) {
  return fmt::format(fmt::runtime(prefix), fmt::arg("layer", layer));
}

bool is_per_expert(const ExpertLayout& layout) noexcept {
  return std::string_view(layout.gate).find("{expert}") != std::string_view::npos;
}

LayoutChoice choose_layout(const TensorFile& file, const Family& family, const ExpertShape& shape, std::int32_t layer) {
  LayoutChoice best;
  int best_score = 0;
  for (const char* prefix : family.prefixes) {
    for (const ExpertLayout& layout : family.layouts) {
      if (prefix == nullptr || layout.gate == nullptr) continue;
      const std::string place = layer_prefix(prefix, layer);
      int score = file.find(place + layout.router) != nullptr ? 1 : 0;
      for (const NamedShape& wanted : expert_names(layout, place, shape, 0)) {
        const Tensor* tensor = file.find(wanted.name);
        if (tensor != nullptr) score += tensor->shape == wanted.shape ? 2 : 1;
      }
      if (score > best_score) {
        best_score = score;
        best = {&layout, prefix};
      }
    }
  }
  return best;
}

std::vector<NamedShape> expert_names(const ExpertLayout& layout, const std::string& prefix, const ExpertShape& shape,
                                     std::int32_t expert) {
  std::vector<NamedShape> names;
  const std::int64_t gate_rows = layout.up == nullptr ? 2 * shape.ffn : shape.ffn;
  names.push_back({expert_name(prefix, layout.gate, expert), matrix_shape(layout, shape, gate_rows, shape.hidden)});
  if (layout.up != nullptr) {
    names.push_back({expert_name(prefix, layout.up, expert), matrix_shape(layout, shape, shape.ffn, shape.hidden)});
  }
  names.push_back({expert_name(prefix, layout.down, expert), matrix_shape(layout, shape, shape.hidden, shape.ffn)});
  return names;
}

std::vector<std::span<const std::byte>> expert_slices(const ExpertLayout& layout, const ExpertShape& shape,
                                                      std::span<const Tensor* const> tensors, std::int32_t expert) {
  std::vector<std::span<const std::byte>> slices;
  for (const Tensor* tensor : tensors) {
    const std::span<const std::byte> all(tensor->data, tensor->bytes);
    const std::size_t bytes = tensor->bytes / static_cast<std::size_t>(shape.experts);
    slices.push_back(is_per_expert(layout) ? all : all.subspan(static_cast<std::size_t>(expert) * bytes, bytes));
  }
  return slices;
}

ExpertTensors expert_views(const ExpertLayout& layout, const ExpertShape& shape, std::span<const Tensor* const> tensors,
                           std::int32_t expert) {
  const auto slices = expert_slices(layout, shape, tensors, expert);
  const auto view = [&](std::size_t i, std::int64_t out, std::int64_t in) {
    return matrix_view(layout, slices[i].data(), tensors[i]->dtype, out, in);
  };
  if (layout.up != nullptr) {
    return {view(0, shape.ffn, shape.hidden), view(1, shape.ffn, shape.hidden), view(2, shape.hidden, shape.ffn)};
  }
  const WeightView both = view(0, 2 * shape.ffn, shape.hidden);
  const bool interleaved = layout.fusion == Fusion::interleaved;
  return {every(both, 0, interleaved ? 2 : 1), every(both, interleaved ? 1 : shape.ffn, interleaved ? 2 : 1),
          view(1, shape.hidden, shape.ffn)};
}

}  // namespace switchyard
