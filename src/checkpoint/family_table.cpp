#include "checkpoint/families.hpp"
#include "checkpoint/other_rows.hpp"
#include "checkpoint/sigmoid_rows.hpp"

namespace switchyard {
namespace {

using namespace rows;

// ---- known, not run

constexpr Family refused(const char* name, const char* reason) {
  return {.name = name, .model_types = {name}, .refused = reason};
}

constexpr Family kFamilies[] = {
    kAfmoe,
    kAria,
    kAxk1,
    kAxk2,
    kBailing,
    kBeam,
    kCohere2,
    kDbrx,
    kDeepSeekV2,
    kDeepSeekV3,
    kDeepSeekV4,
    kDots1,
    kDots3,
    kErnie,
    kExaone,
    kFlint,
    kGlm4,
    kGlm4Lite,
    kGlm5Next,
    kGlmMoeDsa,
    kGptOss,
    kGranite,
    kGraniteHybrid,

    kHunyuan,
    kHyV3,
    kHyV4,
    kInkling2,
    kJamba,
    kJetMoe,
    kKimiLinear,
    kKolibri,
    kLaguna,
    kLfm2,
    kLlama4,
    kLongcat,
    kMellum,
    kMimo,
    kMiniMaxM2,
    kMiniMaxM3,
    kMistral4,
    kMistralLarge4,
    kMixtral,
    kNemotron,
    kOlmoe,
    kPhi,
    kPrivacyFilter,
    kQwen2,
    kQwen35,
    kQwen3,
    kQwen3Next,
    kQwen3Omni,
    kQwen3Vl,
    kQwen4,
    kSolar,
    kStep,
    kUnlimited,
    refused("diffusion_gemma_text", "its router reads another normalisation of the residual than its experts"),
    refused("doge", "it chooses by product keys among experts of rank one, and mixes tokens"),
    refused("dots3_note_vision_encoder", "its number of experts and of chosen ones differs from layer to layer"),
    refused("ernie4_5_vl_moe_text", "it has two pools of experts, of different widths, for text and for images"),
    refused("gemma4_text", "its router reads another normalisation of the residual than its experts"),
    refused("inkling_text", "its router weighs the shared experts too, together with the chosen ones"),
    refused("muse_spark_text", "it normalises the output row of every expert before it is weighted"),
    refused("nllb-moe", "an expert drops the tokens beyond its capacity, so that a token depends on the batch"),
    refused("switch_transformers",
            "an expert drops the tokens beyond its capacity, so that a token depends on the batch"),
    refused("vitpose_backbone", "its expert is chosen by the data set and not by a router"),
    refused("zaya", "its router carries a state from one layer to the next"),
};

constexpr Wrapper kWrappers[] = {
    {"aria", {"text_config"}, "aria_text"},
    {"deepseek_ocr2", {"text_config", "language_config"}, "deepseek_ocr2_text"},
    {"diffusion_gemma", {"text_config"}, "diffusion_gemma_text"},
    {"dots3_note", {"text_config"}, "dots3_note_text"},
    {"ernie4_5_vl_moe", {"text_config"}, "ernie4_5_vl_moe_text"},
    {"gemma4", {"text_config"}, "gemma4_text"},
    {"glm4v_moe", {"text_config"}, "glm4v_moe_text"},
    {"glm5_next", {"text_config"}, "glm5_next_text"},
    {"inkling2", {"text_config"}, "inkling2_text"},
    {"inkling_mm_model", {"text_config"}, "inkling_text"},
    {"kimi_k25", {"text_config"}, "deepseek_v3"},
    {"lfm2_vl", {"text_config"}, nullptr},
    {"llama4", {"text_config"}, "llama4_text"},
    {"minimax_m3_vl", {"text_config"}, "minimax_m3_vl_text"},
    {"mistral3", {"text_config"}, nullptr},
    {"mistral_large4", {"text_config"}, "mistral_large4_text"},
    {"muse_spark", {"text_config"}, "muse_spark_text"},
    {"qwen3_5_moe", {"text_config"}, "qwen3_5_moe_text"},
    {"qwen3_omni_moe", {"thinker_config.text_config"}, "qwen3_omni_moe_text"},
    {"qwen3_omni_moe_thinker", {"text_config"}, "qwen3_omni_moe_text"},
    {"qwen3_vl_moe", {"text_config"}, "qwen3_vl_moe_text"},
    {"qwen4_exp", {"text_config"}, "qwen4_exp_text"},
    {"step3p7", {"text_config"}, "step3p5"},
    {"unlimited_ocr", {"text_config", "language_config"}, "unlimited_ocr_text"},
    {"vitpose", {"backbone_config"}, "vitpose_backbone"},
};

}  // namespace

std::span<const Family> families() noexcept { return kFamilies; }
std::span<const Wrapper> wrappers() noexcept { return kWrappers; }

const Family* find_family(std::string_view model_type) noexcept {
  for (const Family& family : kFamilies) {
    for (const char* known : family.model_types) {
      if (known != nullptr && model_type == known) return &family;
    }
  }
  return nullptr;
}

}  // namespace switchyard
