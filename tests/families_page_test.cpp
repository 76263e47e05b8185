// docs/families.md says what the family table says.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "checkpoint/families.hpp"
#include "checkpoint_files.hpp"
#include "switchyard/model.hpp"

namespace {

using namespace switchyard;

std::string code(std::string_view text) { return fmt::format("`{}`", text); }

// "`key` (value)", or the value alone.
std::string keyed(const char* key, double value) {
  return key == nullptr ? fmt::format("{:g}", value) : fmt::format("`{}` ({:g})", key, value);
}

std::string types_cell(const Family& family) {
  std::vector<std::string> types;
  std::vector<std::string> around;
  for (const char* type : family.model_types) {
    if (type == nullptr) continue;
    types.push_back(code(type));
    for (const Wrapper& wrapper : wrappers()) {
      if (wrapper.text_type != nullptr && std::string_view(wrapper.text_type) == type) {
        around.push_back(code(wrapper.model_type));
      }
    }
  }
  std::string cell = fmt::format("{}", fmt::join(types, ", "));
  if (!around.empty()) cell += fmt::format("; in {}", fmt::join(around, ", "));
  return cell;
}

std::string normalize_text(const RouterColumns& router) {
  std::string text;
  if (router.chosen == ChosenScore::softmax && router.chosen_key == nullptr) return text;
  const std::string epsilon = keyed(router.epsilon_key, router.epsilon);
  if (router.normalize == Normalize::clamped_sum) return fmt::format(", / max(sum, {})", epsilon);
  if (router.normalize == Normalize::power_norm) return fmt::format(", / norm of {}", keyed(router.power_key, 1));
  if (router.normalize == Normalize::none && router.normalize_keys[0] == nullptr) return text;
  text = ", / sum";
  if (router.epsilon != 0) text = fmt::format(", / (sum + {})", epsilon);
  if (router.normalize_keys[0] == nullptr) return text;
  return text + fmt::format(" if `{}` ({})", router.normalize_keys[0], router.normalize != Normalize::none);
}

std::string groups_text(const Groups& groups) {
  if (groups.best == 0) return "";
  std::string text = fmt::format("; groups by their best {}", groups.best);
  if (groups.masked_zero) text += ", others 0";
  if (groups.method != nullptr) text += fmt::format(", if `topk_method` is {}", groups.method);
  if (groups.count > 1) text += fmt::format(", `{}` ({})", groups.count_keys[0], groups.count);
  return text;
}

std::string router_cell(const Family& family) {
  const RouterColumns& router = family.router;
  std::string text = score_name(router.score);
  if (router.score_key != nullptr) text = fmt::format("`{}` ({})", router.score_key, text);
  if (router.logit_bias) text += ", bias";
  if (router.softcap_key != nullptr) text += fmt::format(", `{}`", router.softcap_key);
  if (router.chosen != ChosenScore::none) {
    const char* name = router.chosen == ChosenScore::softmax ? "softmax" : "sigmoid";
    text += fmt::format(", {} of the chosen", router.chosen_key == nullptr ? name : code(router.chosen_key));
  }
  text += normalize_text(router);
  if (router.jitter_key != nullptr) text += fmt::format(", `{}` ({:g})", router.jitter_key, router.jitter);
  if (router.scale_key != nullptr) text += fmt::format(", × {}", keyed(router.scale_key, router.scale));
  if (family.weight_site == WeightSite::input) text += ", on the input";
  if (family.schedule.table_layers != nullptr) {
    text += fmt::format("; the first `{}` ({}) by token id", family.schedule.table_layers, family.schedule.tables);
  }
  return text + groups_text(router.groups);
}

std::string bias_cell(const RouterColumns& router) {
  if (!router.selection_bias) return "";
  return router.selection_bias_key == nullptr ? "yes" : fmt::format("if `{}`", router.selection_bias_key);
}

std::string gemm_cell(const RouterColumns& router) { return router.narrow ? "model's" : "f32"; }

std::string function_cell(const Family& family) {
  const FunctionColumns& columns = family.function;
  std::string text = activation_name(columns.activation);
  if (!columns.gated) text += ", no gate";
  if (columns.limit_key != nullptr) text += fmt::format(", limit {}", keyed(columns.limit_key, columns.limit));
  if (columns.alpha_key != nullptr) text += fmt::format(", alpha {}", keyed(columns.alpha_key, columns.alpha));
  if (columns.limits_key != nullptr) text += fmt::format(", limits `{}`", columns.limits_key);
  if (family.latent != nullptr) text += fmt::format(", in `{}` dimensions", family.latent);
  if (family.identity_experts != nullptr) text += fmt::format("; `{}` identities", family.identity_experts);
  if (family.output_bias) text += "; bias on the sum";
  if (family.outside != nullptr) text += fmt::format("; then {}, left to the caller", family.outside);
  return text;
}

std::string shared_cell(const Family& family) {
  const SharedColumns& shared = family.shared;
  if (!shared.has) return "";
  std::string text = shared.ffn[0] == nullptr ? "F" : code(shared.ffn[0]);
  if (shared.count != nullptr) text += fmt::format(" × `{}`", shared.count);
  if (shared.gate) text += ", sigmoid gate";
  if (family.function.shared_unlimited) text += ", silu";
  if (shared.average_key != nullptr) text += fmt::format(", `{}` (average)", shared.average_key);
  return text;
}

std::string layout_cell(const Family& family) {
  std::vector<std::string> labels;
  for (const Place& place : family.places) {
    if (place.experts == nullptr) continue;
    constexpr std::string_view kUsual = " [out,in]";
    std::string label = place.experts->label;
    if (label.ends_with(kUsual)) label.resize(label.size() - kUsual.size());
    std::string block = place.block;
    if (!block.empty()) block.pop_back();
    if (!block.empty()) label = code(block) + " " + label;
    if (std::find(labels.begin(), labels.end(), label) == labels.end()) labels.push_back(label);
  }
  return fmt::format("{}", fmt::join(labels, "; "));
}

std::string row_of(const Family& family) {
  if (family.refused != nullptr) return fmt::format("| {} | {} |", types_cell(family), family.refused);
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} |", types_cell(family), router_cell(family),
                     gemm_cell(family.router), bias_cell(family.router), function_cell(family), shared_cell(family),
                     layout_cell(family));
}

std::string page() {
  std::ifstream file(SWITCHYARD_EXAMPLES "/../docs/families.md");
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FamiliesPage, HasARowForEveryFamily) {
  const std::string text = page();
  for (const Family& family : families()) {
    EXPECT_NE(text.find(row_of(family) + "\n"), std::string::npos) << "docs/families.md lacks\n" << row_of(family);
  }
}

TEST(FamiliesPage, HasNoOtherRows) {
  std::set<std::string> rows;
  for (const Family& family : families()) rows.insert(row_of(family));
  std::istringstream lines(page());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(!line.starts_with("| `") || rows.contains(line)) << line;
  }
}

TEST(FamiliesPage, NamesEveryModelType) {
  const std::string text = page();
  for (const std::string& type : known_model_types()) EXPECT_NE(text.find(code(type)), std::string::npos) << type;
}

}  // namespace
