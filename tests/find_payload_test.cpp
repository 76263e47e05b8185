// Payloads in the bodies of responses, as the engines send them; and bodies that are damaged.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "made_payload.hpp"

namespace {

std::atomic<std::size_t> largest_allocation{0};

void* allocate(std::size_t bytes) {
  std::size_t largest = largest_allocation.load();
  while (largest < bytes && !largest_allocation.compare_exchange_weak(largest, bytes)) {
  }
  return std::malloc(bytes == 0 ? 1 : bytes);
}

void* allocate_or_throw(std::size_t bytes) {
  void* memory = allocate(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new[](std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace made;

constexpr const char* kHead =
    R"({"id":"chatcmpl-9b1c","object":"chat.completion","created":1767225600,"model":"a/b","choices":[)";
constexpr const char* kTail =
    R"(],"service_tier":null,"usage":{"prompt_tokens":12,"total_tokens":40,"completion_tokens":28,)"
    R"("prompt_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":[1,2,3],"kv_transfer_params":null})";

// A choice with text that a careless search would stumble over.
std::string choice(int index, const std::string& routed_experts, const char* key = "routed_experts") {
  return fmt::format(
      R"({{"index":{},"message":{{"role":"assistant","content":"\"routed_experts\": \"no\" \\ {{\"shape\":[1,1,1]}} \u00e9é",)"
      R"("tool_calls":[]}},"logprobs":{{"content":[{{"token":"\"","logprob":-0.5,"bytes":[34],"top_logprobs":[]}}]}},)"
      R"("finish_reason":"stop","stop_reason":null,"token_ids":[5,6,7],"{}":{}}})",
      index, key, routed_experts);
}

std::string quoted(const std::string& text) { return fmt::format("\"{}\"", text); }

// As Python's json writes it by default.
std::string spaced(std::string json) {
  std::string out;
  bool inside = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    out += json[i];
    if (json[i] == '\\' && inside) out += json[++i];
    if (json[i] == '"' && json[i - 1] != '\\') inside = !inside;
    if (!inside && (json[i] == ',' || json[i] == ':')) out += ' ';
  }
  return out;
}

std::vector<FoundPayload> find(const std::string& body, const PayloadHints& hints = {}) {
  return find_payloads(body, hints);
}

void expect_ids(const Payload& payload, const Ids& ids, std::int32_t experts) {
  ASSERT_EQ(payload.rows, ids.rows);
  ASSERT_EQ(payload.layers, ids.layers);
  const RecordSchema schema = schema_of(experts, ids.topk, layers_from(0, ids.layers));
  EXPECT_EQ(read(rows_of(payload, schema), schema, 0, ids.rows), ids.values);
}

bool points_into(const Payload& payload, const std::string& body) {
  return payload.data.data() >= body.data() && payload.data.data() + payload.data.size() <= body.data() + body.size();
}

constexpr std::int64_t kSizes[] = {1, 4, 60, 70, 200, 3000};  // rows: text far below, around and beyond 4 KiB

TEST(FindPayload, Vllm) {
  for (const std::int64_t rows : kSizes) {
    const Ids first = random_ids(rows, 6, 8, 128, 1);
    const Ids second = random_ids(rows + 1, 6, 8, 128, 2);
    const std::string compact = kHead + choice(0, quoted(base64_of(npy_of(first, DType::u8)))) + "," +
                                choice(1, quoted(base64_of(npy_of(second, DType::u16)))) + kTail;
    PayloadHints hints;
    hints.start = 11;
    for (const std::string& body : {compact, spaced(compact)}) {
      const auto found = find(body, hints);
      ASSERT_EQ(found.size(), 2U);
      EXPECT_EQ(found[0].choice, 0);
      EXPECT_EQ(found[1].choice, 1);
      EXPECT_EQ(found[1].payload.start, 11);
      EXPECT_TRUE(points_into(found[0].payload, body));
      expect_ids(found[0].payload, first, 128);
      expect_ids(found[1].payload, second, 128);
    }
  }
}

std::string object_of(const Ids& ids, const char* type, DType dtype, std::int64_t start, int order) {
  const std::string data = fmt::format(R"("data":"{}")", base64_of(bytes_of(ids, dtype)));
  const std::string shape = fmt::format(R"("shape":[{},{},{}])", ids.rows, ids.layers, ids.topk);
  const std::string name = fmt::format(R"("dtype":"{}")", type);
  const std::string from = fmt::format(R"("start":{})", start);
  switch (order) {
    case 0:
      return fmt::format("{{{},{},{},{}}}", data, shape, from, name);
    case 1:
      return fmt::format("{{{},{},{},{}}}", name, data, from, shape);
    case 2:
      return fmt::format("{{{},{},{},{}}}", shape, name, data, from);
    default:
      return fmt::format("{{{},{},{},{}}}", data, name, shape, from);
  }
}

TEST(FindPayload, VerifiersAndSkyRl) {
  for (const std::int64_t rows : kSizes) {
    for (int order = 0; order < 4; ++order) {
      for (const auto& [type, dtype] :
           {std::pair{"uint8", DType::u8}, {"uint16", DType::u16}, {"int16", DType::i16}, {"int32", DType::i32}}) {
        // Equal shapes, so that one's length fits the other.
        const Ids first = random_ids(rows, 4, 8, 128, 3);
        const Ids second = random_ids(rows, 4, 8, 128, 4);
        const std::string compact = kHead + choice(0, object_of(first, type, dtype, 7, order)) + "," +
                                    choice(1, "null") + "," + choice(2, object_of(second, type, dtype, 0, order)) +
                                    kTail;
        for (const std::string& body : {compact, spaced(compact)}) {
          const auto found = find(body);
          ASSERT_EQ(found.size(), 2U);
          EXPECT_EQ(found[0].payload.start, 7);
          EXPECT_EQ(found[1].choice, 2);
          EXPECT_EQ(found[1].payload.start, 0);
          expect_ids(found[0].payload, first, 128);
          expect_ids(found[1].payload, second, 128);
        }
      }
    }
  }
}

TEST(FindPayload, ObjectsWithoutTypeAndWithLayers) {
  const Ids ids = random_ids(2000, 3, 4, 200, 5);
  const std::string data = base64_of(bytes_of(ids, DType::u8));
  const std::string body =
      kHead + choice(0, R"({"data":")" + data + R"(","shape":[2000,3,4],"layer_indices":[2,5,9]})") + kTail;
  const auto found = find(body);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].payload.dtype, DType::u8);
  EXPECT_EQ(found[0].payload.layer_ids, (std::vector<std::int32_t>{2, 5, 9}));
  PayloadHints hints;
  hints.layer_ids = {1, 2, 3};
  EXPECT_EQ(find(body, hints)[0].payload.layer_ids, (std::vector<std::int32_t>{2, 5, 9}));
}

TEST(FindPayload, SGLang) {
  for (const std::int64_t rows : kSizes) {
    const Ids ids = random_ids(rows, 5, 4, 64, 6);
    const std::string meta = fmt::format(
        R"({{"text":"a \\","output_ids":[1,2],"meta_info":{{"id":"7f","finish_reason":{{"type":"length","length":16}},)"
        R"("prompt_tokens":5,"weight_version":"default","routed_experts":"{}","routed_experts_start_len":3,)"
        R"("completion_tokens":16,"cached_tokens":1,"e2e_latency":0.25}}}})",
        base64_of(bytes_of(ids, DType::i32)));
    PayloadHints hints;
    hints.layers = 5;
    hints.topk = 4;
    hints.layer_ids = {1, 2, 3, 4, 6};
    for (const std::string& body : {meta, "[" + meta + " , " + meta + "]\n", spaced(meta)}) {
      const auto found = find(body, hints);
      ASSERT_EQ(found.size(), body[0] == '[' ? 2U : 1U);
      EXPECT_EQ(found.back().choice, body[0] == '[' ? 1 : 0);
      EXPECT_EQ(found.back().payload.start, 3);
      EXPECT_EQ(found.back().payload.dtype, DType::i32);
      EXPECT_EQ(found.back().payload.layer_ids, hints.layer_ids);
      Payload payload = found.back().payload;
      payload.layer_ids.clear();
      expect_ids(payload, ids, 64);
    }
    EXPECT_NE(message_of([&] { find(meta); }).find("expected hints with layers and topk"), std::string::npos);
  }
}

TEST(FindPayload, NeMoAndMegatron) {
  for (const std::int64_t rows : kSizes) {
    Ids ids = random_ids(rows, 3, 4, 64, 7);
    const std::string envelope = fmt::format("nrlre1:int16:{}x3x4:{}", rows, base64_of(bytes_of(ids, DType::i16)));
    const std::string body = kHead + choice(0, quoted(envelope)) + "," + choice(1, lists_of(ids), "moe_topk_indices") +
                             "," + choice(2, spaced(lists_of(ids))) + kTail;
    for (const std::string& each : {body, spaced(body)}) {
      const auto found = find(each);
      ASSERT_EQ(found.size(), 3U);
      EXPECT_EQ(found[1].payload.form, PayloadForm::lists);
      for (const FoundPayload& payload : found) expect_ids(payload.payload, ids, 64);
    }
  }
}

TEST(FindPayload, BodiesWithoutPayloads) {
  const char* bodies[] = {"{}", "[]", " {\"a\":[1,2,{\"b\":null}],\"routed_experts\":null} ",
                          R"({"choices":[{"index":0,"text":"routed_experts","routed_experts_":"AAAA"}]})"};
  for (const char* body : bodies) EXPECT_TRUE(find(body).empty()) << body;
  EXPECT_EQ(find(R"({"routed_experts":[]})").size(), 1U);  // no rows
}

TEST(FindPayload, LongTextThatIsNoPayload) {
  const Ids ids = random_ids(100, 3, 4, 64, 8);
  const std::string text = quoted(base64_of(npy_of(ids, DType::u8)));
  for (const std::size_t length : {4090U, 4095U, 4096U, 4097U, 4098U, 9000U}) {
    for (const char* end : {"", "\\\"", "\\\\", "\\\\\\\"", "x\\n"}) {
      const std::string filler = std::string(length, 'x') + end;
      const std::string body = R"({"prompt":")" + filler + R"(","choices":[)" + choice(0, text) + R"(],"data":")" +
                               filler + R"(","after":")" + filler + "\"}";
      const auto found = find(body);
      ASSERT_EQ(found.size(), 1U);
      expect_ids(found[0].payload, ids, 64);
    }
  }
}

// What the promise about time rests on: nothing between the ends of a payload with a shape is looked at.
TEST(FindPayload, PayloadsAreSteppedOver) {
  const Ids ids = random_ids(4000, 3, 4, 64, 9);
  for (int order = 0; order < 5; ++order) {
    std::string body = kHead +
                       (order == 4 ? choice(0, quoted(base64_of(npy_of(ids, DType::u8))))
                                   : choice(0, object_of(ids, "uint8", DType::u8, 0, order))) +
                       kTail;
    const std::size_t begin = body.find(order == 4 ? "k05VTVBZ" : "\"data\":\"");
    for (std::size_t at = begin + 20000; at < begin + 30000; ++at) body[at] = "\"\\{}[]"[at % 6];
    const auto found = find(body);
    ASSERT_EQ(found.size(), 1U) << order;
    const RecordSchema schema = schema_of(64, 4, {0, 1, 2});
    const RowSource source = rows_of(found[0].payload, schema);
    const std::vector<std::int64_t> last = read(source, schema, 3900, 4000);
    EXPECT_EQ(last, std::vector<std::int64_t>(ids.values.end() - 100 * 12, ids.values.end()));
    EXPECT_NE(message_of([&] { read(source, schema, 1300, 2600); }), "accepted");
  }
}

TEST(FindPayload, AllocatesLittle) {
  const Ids ids = random_ids(20000, 8, 8, 200, 10);
  const std::string bytes = bytes_of(ids, DType::u8);
  const std::string bodies[] = {kHead + choice(0, object_of(ids, "uint8", DType::u8, 0, 0)) + kTail,
                                kHead + choice(0, quoted(base64_of(npy_of(ids, DType::u8)))) + kTail,
                                kHead + choice(0, lists_of(ids)) + kTail};
  const RecordSchema schema = schema_of(200, 8, layers_from(0, 8));
  std::vector<std::uint8_t> rows(2000 * 64);
  for (const std::string& body : bodies) {
    largest_allocation = 0;
    const auto found = find_payloads(body);
    rows_of(found.at(0).payload, schema).read(18000, 20000, rows.data());
    EXPECT_LE(largest_allocation.load(), std::size_t{64} << 10);
    EXPECT_EQ(std::memcmp(rows.data(), bytes.data() + 18000 * 64, rows.size()), 0);
  }
}

// From memory of exactly the size.
std::string message_of_body(const std::string& body, const PayloadHints& hints = {}) {
  const auto exact = std::make_unique<char[]>(body.size());
  std::memcpy(exact.get(), body.data(), body.size());
  return message_of([&] { find_payloads({exact.get(), body.size()}, hints); });
}

TEST(FindPayload, EveryCutIsAnError) {
  const Ids ids = random_ids(130, 4, 8, 128, 11);
  const std::string bodies[] = {
      kHead + choice(0, object_of(ids, "uint8", DType::u8, 0, 0)) + kTail,
      kHead + choice(0, object_of(ids, "int16", DType::i16, 0, 2)) + kTail,
      kHead + choice(0, quoted(base64_of(npy_of(ids, DType::u16)))) + kTail,
      kHead + choice(0, quoted(fmt::format("nrlre1:int8:130x4x8:{}", base64_of(bytes_of(ids, DType::i8))))) + kTail,
      kHead + choice(0, lists_of(ids), "moe_topk_indices") + kTail,
  };
  for (const std::string& body : bodies) {
    EXPECT_EQ(message_of_body(body), "accepted");
    for (std::size_t size = 0; size < body.size(); size += size < 900 || size + 400 > body.size() ? 1 : 37) {
      EXPECT_NE(message_of_body(body.substr(0, size)), "accepted") << size;
    }
  }
}

TEST(FindPayload, WhatIsRefused) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "no JSON"},
      {"not json", "a single JSON value"},
      {"<html>502 Bad Gateway</html>", "no JSON"},
      {"17", "a single JSON value"},
      {"{} {}", "goes on after"},
      {R"({"a":nul})", ""},
      {R"({"a":1)", "no JSON"},
      {"{\"a\":\"\xff\xff\"}", "no JSON"},
      {R"({"routed_experts":5})", "are a number or a boolean"},
      {R"({"routed_experts":"AAAA"})", "ids without a shape"},
      {R"({"routed_experts":{"data":"AAAA"}})", "without shape"},
      {R"({"routed_experts":{"shape":[1,1,3]}})", "without data"},
      {R"({"routed_experts":{"data":5,"shape":[1,1,3]}})", "data is no string"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,3]}})", "a shape of 2 sizes"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,1,3]}})", "a shape of 4 sizes"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,4]}})", "3 bytes, expected 4"},
      {R"({"routed_experts":{"data":"AAAA","shape":[-1,-1,3]}})", "expected positive sizes"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,3.5]}})", "no JSON"},
      {R"({"routed_experts":{"data":"AAAA","shape":[4294967296,4294967296,4294967296]}})", "overflows"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,3],"dtype":"float32"}})", "dtype 'float32'"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,3],"layer_indices":[3,4]}})", "2 layer ids, expected 1"},
      {R"({"routed_experts":{"data":"AAAA","shape":[1,1,3],"layer_indices":[-3]}})", "layer index -3"},
      {R"({"routed_experts":{"data":"AA\/A","shape":[1,1,3]}})", "5 characters"},
      {R"({"routed_experts":[[[1,2],[3]]]})", "a list of 1"},
      {R"({"routed_experts":[[[1,2],[3,"a"]]]})", "expected an integer"},
      {R"({"routed_experts":[[[1,2],[3,4]])", "expected ',' or ']'"},
      {std::string(200, '[') + std::string(200, ']'), "nested more than 64 deep"},
  };
  for (const auto& [body, part] : cases) {
    const std::string message = message_of_body(body);
    EXPECT_NE(message, "accepted") << body;
    EXPECT_NE(message.find(part), std::string::npos) << body << ": " << message;
  }
}

TEST(FindPayload, EscapesInBase64AreNamed) {
  std::string data = base64_of(std::string(6000, '\xff'));
  for (std::size_t at = data.find('/', 100); at < 140; at = data.find('/', at + 2)) data.insert(at, "\\");
  const std::string body = R"({"routed_experts":{"data":")" + data + R"(","shape":[6000,1,1]}})";
  const std::string message = message_of_body(body);
  EXPECT_NE(message.find("escapes"), std::string::npos) << message;
}

}  // namespace
