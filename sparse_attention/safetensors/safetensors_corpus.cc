#include "sparse_attention/safetensors/safetensors_corpus.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace sparse_attention {
namespace {

using Cases = std::vector<SafetensorsCase>;

std::string Length(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  return bytes;
}

std::string Repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

// One entry of a header.
std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

void Accept(Cases& cases, const std::string& name, const std::string& header,
            const std::string& data = "") {
  cases.push_back({name, SafetensorsVerdict::kAccept, SafetensorsBytes(header, data), ""});
}
void Reject(Cases& cases, const std::string& name, const std::string& header,
            const std::string& data, const std::string& message) {
  cases.push_back({name, SafetensorsVerdict::kReject, SafetensorsBytes(header, data), message});
}
void RejectBytes(Cases& cases, const std::string& name, const std::string& bytes,
                 const std::string& message) {
  cases.push_back({name, SafetensorsVerdict::kReject, bytes, message});
}
void Stricter(Cases& cases, const std::string& name, const std::string& header,
              const std::string& data, const std::string& message) {
  cases.push_back({name, SafetensorsVerdict::kStricter, SafetensorsBytes(header, data), message});
}

const char kOneByte[] = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";

// A file whose only tensor, of one byte, has an additional field.
std::string WithExtra(const std::string& value) {
  return R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":)" + value + "}}";
}

void AddLengths(Cases& c) {
  RejectBytes(c, "empty file", "", "at least the 8 bytes of the header length, got 0");
  RejectBytes(c, "one byte", "x", "got 1");
  RejectBytes(c, "seven bytes of length", Length(2).substr(0, 7), "got 7");
  RejectBytes(c, "length only", Length(2), "header of 2 bytes does not fit in a file of 8");
  RejectBytes(c, "header one byte short", Length(3) + "{}", "truncated");
  RejectBytes(c, "header far beyond file", Length(1000) + "{}", "truncated");
  RejectBytes(c, "length 2^64-1", Length(~uint64_t{0}) + "{}",
              "at most 100000000, got 18446744073709551615");
  RejectBytes(c, "length 2^64-8 wraps when 8 is added", Length(~uint64_t{0} - 7) + "{}",
              "at most 100000000");
  RejectBytes(c, "length 2^63", Length(uint64_t{1} << 63) + "{}", "at most 100000000");
  RejectBytes(c, "length one above the limit", Length(100'000'001) + "{}",
              "at most 100000000, got 100000001");
  RejectBytes(c, "length at the limit, file short", Length(100'000'000) + "{}", "truncated");
  RejectBytes(c, "big-endian length", Repeat(std::string(1, '\0'), 7) + "\x02{}",
              "at most 100000000");
  RejectBytes(c, "length zero", Length(0), "must begin with '{'");
  RejectBytes(c, "length zero, header follows", Length(0) + "{}", "must begin with '{'");
  RejectBytes(c, "length one", Length(1) + "{}", "not valid JSON");
  RejectBytes(c, "header cut inside a name", SafetensorsBytes(std::string(kOneByte, 4)),
              "not valid JSON");
  RejectBytes(c, "length cuts the last brace", Length(sizeof(kOneByte) - 2) + kOneByte + "x",
              "not valid JSON");
}

void AddJson(Cases& c) {
  Accept(c, "no tensors", "{}");
  Accept(c, "padded with spaces", "{}      ");
  Accept(c, "padded with other JSON whitespace", "{}\n\t\r ");
  Accept(c, "whitespace inside",
         "{ \"a\" : { \"dtype\" : \"U8\" , \"shape\" : [ 1 ] ,\n"
         "\"data_offsets\" : [ 0 , 1 ] } }",
         "x");
  Accept(c, "many padding bytes", std::string(kOneByte) + std::string(4096, ' '), "x");
  Stricter(c, "leading space", " {}", "", "must begin with '{'");
  Stricter(c, "leading newline", "\n{}", "", "must begin with '{'");
  Reject(c, "leading byte order mark", "\xef\xbb\xbf{}", "", "must begin with '{'");
  Reject(c, "padded with NUL", std::string("{}\0\0", 4), "", "not valid JSON at byte 3");
  Reject(c, "NUL before more JSON", std::string("{}\0{}", 5), "", "not valid JSON");
  Reject(c, "NUL inside a name", std::string("{\"a\0b\":1}", 9), "", "not valid JSON");
  Reject(c, "text after the object", "{}x", "", "not valid JSON");
  Reject(c, "two objects", "{}{}", "", "not valid JSON");
  Reject(c, "array", "[]", "", "must begin with '{'");
  Reject(c, "string", "\"a\"", "", "must begin with '{'");
  Reject(c, "number", "1", "", "must begin with '{'");
  Reject(c, "null", "null", "", "must begin with '{'");
  Reject(c, "lone brace", "{", "", "not valid JSON");
  Reject(c, "trailing comma", "{\"__metadata__\":{},}", "", "not valid JSON");
  Reject(c, "single quotes", "{'__metadata__':{}}", "", "not valid JSON");
  Reject(c, "comment", "{/**/}", "", "not valid JSON");
  Reject(c, "unquoted name", "{a:1}", "", "not valid JSON");
  Reject(c, "missing colon", "{\"a\" {}}", "", "not valid JSON");
  Reject(c, "control character in a name", "{\"a\nb\":1}", "", "not valid JSON");
  Reject(c, "bad escape", "{\"\\q\":1}", "", "not valid JSON");
  Reject(c, "short hex escape", "{\"\\u12\":1}", "", "not valid JSON");
  Reject(c, "lone high surrogate", "{" + Entry("\\ud800", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "lone low surrogate", "{" + Entry("\\udc00", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "invalid UTF-8 in a name", "{" + Entry("\xff", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "overlong UTF-8", "{" + Entry("\xc0\xaf", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "UTF-8 surrogate", "{" + Entry("\xed\xa0\x80", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "UTF-8 beyond U+10FFFF", "{" + Entry("\xf4\x90\x80\x80", "U8", "[1]", "[0,1]") + "}",
         "x", "not valid JSON");
  Reject(c, "cut UTF-8 character", "{" + Entry("\xe2\x82", "U8", "[1]", "[0,1]") + "}", "x",
         "not valid JSON");
  Reject(c, "invalid UTF-8 in padding", "{}\x80", "", "not valid JSON");
  Reject(c, "deep arrays", Repeat("[", 100000), "", "must begin with '{'");
  Reject(c, "deep objects", Repeat("{\"a\":", 100000), "", "nested deeper than 127");
  Reject(c, "deep arrays in an unknown field", WithExtra(Repeat("[", 100000)), "x",
         "nested deeper than 127");
  Accept(c, "127 levels", WithExtra(Repeat("[", 125) + Repeat("]", 125)), "x");
  Reject(c, "128 levels", WithExtra(Repeat("[", 126) + Repeat("]", 126)), "x",
         "nested deeper than 127");
  Accept(c, "127 levels of objects", WithExtra(Repeat("{\"y\":", 125) + "1" + Repeat("}", 125)),
         "x");
}

void AddNames(Cases& c) {
  Accept(c, "empty name", "{" + Entry("", "U8", "[1]", "[0,1]") + "}", "x");
  Accept(c, "Unicode name",
         "{" + Entry("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "U8", "[1]", "[0,1]") + "}", "x");
  Accept(c, "escaped name", "{" + Entry("\\u0041\\n\\\"\\ud83d\\ude00", "U8", "[1]", "[0,1]") + "}",
         "x");
  Accept(c, "escaped NUL in a name", "{" + Entry("\\u0000", "U8", "[1]", "[0,1]") + "}", "x");
  Accept(c, "long name", "{" + Entry(std::string(10000, 'n'), "U8", "[1]", "[0,1]") + "}", "x");
  Accept(c, "name like a field", "{" + Entry("dtype", "U8", "[1]", "[0,1]") + "}", "x");
  const std::string a = Entry("a", "U8", "[1]", "[0,1]");
  Stricter(c, "same tensor twice", "{" + a + "," + a + "}", "x", "duplicate key \"a\"");
  Stricter(c, "same name, one escaped",
           "{" + a + "," + Entry("\\u0061", "U8", "[1]", "[0,1]") + "}", "x",
           "duplicate key \"a\"");
  Reject(c, "same name, other offsets", "{" + a + "," + Entry("a", "U8", "[1]", "[1,2]") + "}",
         "xy", "");
  Stricter(c, "same name, first one broken", "{" + Entry("a", "U8", "[1]", "[7,8]") + "," + a + "}",
           "x", "duplicate key \"a\"");
  Reject(c, "metadata twice", R"({"__metadata__":{"k":"v"},"__metadata__":{"k":"w"}})", "",
         "duplicate key \"__metadata__\"");
}

void AddMetadata(Cases& c) {
  Accept(c, "metadata", R"({"__metadata__":{"format":"pt","b":""}})");
  Accept(c, "metadata after tensors",
         "{" + Entry("a", "U8", "[1]", "[0,1]") + R"(,"__metadata__":{"format":"pt"}})", "x");
  Accept(c, "empty metadata", R"({"__metadata__":{}})");
  Accept(c, "null metadata", R"({"__metadata__":null})");
  Reject(c, "metadata with a number", R"({"__metadata__":{"k":1}})", "",
         "__metadata__[\"k\"] must be a string, got 1");
  Reject(c, "metadata with null", R"({"__metadata__":{"k":null}})", "",
         "must be a string, got null");
  Reject(c, "metadata with a bool", R"({"__metadata__":{"k":true}})", "",
         "must be a string, got true");
  Reject(c, "metadata with a float", R"({"__metadata__":{"k":1.5}})", "",
         "must be a string, got 1.5");
  Reject(c, "metadata with a list", R"({"__metadata__":{"k":["v"]}})", "",
         "must be a string, got an array");
  Reject(c, "nested metadata", R"({"__metadata__":{"k":{"l":"v"}}})", "",
         "must be a string, got an object");
  Reject(c, "metadata list", R"({"__metadata__":[]})", "", "__metadata__ must be an object");
  Reject(c, "metadata string", R"({"__metadata__":"v"})", "", "__metadata__ must be an object");
  Reject(c, "metadata number", R"({"__metadata__":0})", "", "__metadata__ must be an object");
  Reject(c, "metadata that is a tensor",
         R"({"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x",
         "__metadata__[\"shape\"] must be a string");
  Stricter(c, "metadata key twice", R"({"__metadata__":{"k":"v","k":"w"}})", "",
           "__metadata__ has the duplicate key \"k\"");
}

void AddFields(Cases& c) {
  Reject(c, "tensor null", R"({"a":null})", "", "tensor \"a\": must be an object, got null");
  Reject(c, "tensor number", R"({"a":1})", "", "tensor \"a\": must be an object, got 1");
  Reject(c, "tensor string", R"({"a":"U8"})", "", "tensor \"a\": must be an object");
  Reject(c, "tensor empty", R"({"a":{}})", "", "tensor \"a\": dtype is missing");
  Reject(c, "tensor empty list", R"({"a":[]})", "",
         "tensor \"a\": must be an object, got an array");
  Stricter(c, "tensor as a list", R"({"a":["U8",[1],[0,1]]})", "x",
           "tensor \"a\": must be an object, got an array");
  Reject(c, "dtype missing", R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "x",
         "dtype is missing");
  Reject(c, "shape missing", R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", "x",
         "shape is missing");
  Reject(c, "offsets missing", R"({"a":{"dtype":"U8","shape":[1]}})", "x",
         "data_offsets is missing");
  Reject(c, "dtype twice", R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
         "x", "tensor \"a\": duplicate field dtype");
  Reject(c, "shape twice", R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})",
         "x", "duplicate field shape");
  Reject(c, "offsets twice",
         R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}})", "x",
         "duplicate field data_offsets");
  Accept(c, "fields in another order", R"({"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}})",
         "x");
  for (const char* value : {"1", "-1.5e3", "null", "true", "\"s\"", "[1,[2]]", "{\"shape\":[9]}",
                            "{\"a\":1,\"a\":2}", "123456789012345678901234567890", "1e-400"}) {
    Accept(c, absl::StrCat("unknown field ", value), WithExtra(value), "x");
  }
  for (const char* value : {"1e400", "01", "-", "1.", ".5", "+1", "nul", "NaN", "Infinity",
                            "\"\\ud800\"", "[1,]", "{\"b\"}"}) {
    Reject(c, absl::StrCat("unknown field ", value), WithExtra(value), "x", "not valid JSON");
  }

  const auto dtype = [](const std::string& value) {
    return R"({"a":{"dtype":)" + value + R"(,"shape":[1],"data_offsets":[0,1]}})";
  };
  for (const char* name :
       {"", "u8", "U8 ", "UINT8", "I4", "U128", "F8", "C128", "F8_E3M4", "BF16 "}) {
    Reject(c, absl::StrCat("dtype '", name, "'"), dtype(absl::StrCat("\"", name, "\"")), "x",
           absl::StrCat("tensor \"a\": unknown dtype \"", name, "\""));
  }
  Reject(c, "dtype null", dtype("null"), "x", "dtype must be a string, got null");
  Reject(c, "dtype number", dtype("4"), "x", "dtype must be a string, got 4");
  Reject(c, "dtype list", dtype("[\"U8\"]"), "x", "dtype must be a string, got an array");
  Stricter(c, "dtype as an object", dtype("{\"U8\":null}"), "x",
           "dtype must be a string, got an object");

  const auto shape = [](const std::string& value, const std::string& offsets = "[0,1]") {
    return "{" + Entry("a", "U8", value, offsets) + "}";
  };
  for (const char* value : {"-1", "1.0", "1e0", "-0", "\"1\"", "null", "true", "[1]", "{}",
                            "18446744073709551616", "99999999999999999999999999"}) {
    Reject(c, absl::StrCat("dimension ", value), shape(absl::StrCat("[", value, "]")), "x",
           "tensor \"a\": shape[0] must be an integer >= 0, got ");
    Reject(c, absl::StrCat("offset ", value), shape("[1]", absl::StrCat("[0,", value, "]")), "x",
           "tensor \"a\": data_offsets[1] must be an integer >= 0, got ");
  }
  for (const char* value : {"1", "null", "\"1\"", "{}", "{\"0\":1}"}) {
    Reject(c, absl::StrCat("shape ", value), shape(value), "x", "shape must be a list of integers");
    Reject(c, absl::StrCat("offsets ", value), shape("[1]", value), "x",
           "data_offsets must be a list of integers");
  }
  Reject(c, "no offsets", shape("[1]", "[]"), "x", "data_offsets must have 2 elements, got 0");
  Reject(c, "one offset", shape("[1]", "[0]"), "x", "data_offsets must have 2 elements, got 1");
  Reject(c, "three offsets", shape("[1]", "[0,1,1]"), "x", "data_offsets must have 2 elements");
}

void AddSizes(Cases& c) {
  struct Dtype {
    const char* name;
    int bits;
  };
  for (const Dtype& d :
       {Dtype{"BOOL", 8},   {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
        {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
        {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
        {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
        {"I64", 64},        {"U64", 64}}) {
    Accept(c, absl::StrCat(d.name, " of 2x4"),
           "{" + Entry("a", d.name, "[2,4]", absl::StrCat("[0,", d.bits, "]")) + "}",
           std::string(d.bits, 'x'));
    Reject(c, absl::StrCat(d.name, " of 2x4, a byte too few"),
           "{" + Entry("a", d.name, "[2,4]", absl::StrCat("[0,", d.bits - 1, "]")) + "}",
           std::string(d.bits - 1, 'x'),
           absl::StrCat("must span the ", d.bits, " bytes of shape [2, 4] of ", d.name));
  }
  Reject(c, "three 4-bit values", "{" + Entry("a", "F4", "[3]", "[0,1]") + "}", "x",
         "tensor \"a\": shape [3] of F4 does not fill whole bytes");
  Reject(c, "three 4-bit values, rounded up", "{" + Entry("a", "F4", "[3]", "[0,2]") + "}", "xx",
         "does not fill whole bytes");
  Reject(c, "4-bit scalar", "{" + Entry("a", "F4", "[]", "[0,1]") + "}", "x", "whole bytes");
  Reject(c, "two 6-bit values", "{" + Entry("a", "F6_E2M3", "[2]", "[0,2]") + "}", "xx",
         "whole bytes");
  Accept(c, "no 6-bit values", "{" + Entry("a", "F6_E3M2", "[3,0]", "[0,0]") + "}");
  Accept(c, "scalar", "{" + Entry("a", "F32", "[]", "[0,4]") + "}", "1234");
  Reject(c, "scalar without data", "{" + Entry("a", "F32", "[]", "[0,0]") + "}", "",
         "must span the 4 bytes of shape [] of F32");
  Accept(c, "empty tensor", "{" + Entry("a", "F32", "[0]", "[0,0]") + "}");
  Accept(c, "empty tensor of rank 3", "{" + Entry("a", "F32", "[2,0,3]", "[0,0]") + "}");
  Reject(c, "empty tensor with data", "{" + Entry("a", "F32", "[0]", "[0,4]") + "}", "1234",
         "must span the 0 bytes");
  Accept(c, "rank 1000", "{" + Entry("a", "U8", "[1" + Repeat(",1", 999) + "]", "[0,1]") + "}",
         "x");
  Accept(c, "NaN and infinity", "{" + Entry("a", "F32", "[2]", "[0,8]") + "}",
         std::string("\x00\x00\xc0\x7f\x00\x00\x80\xff", 8));
  Accept(c, "bool that is neither 0 nor 1", "{" + Entry("a", "BOOL", "[1]", "[0,1]") + "}", "\x7f");

  const auto overflow = [&c](const std::string& name, const std::string& dtype,
                             const std::string& shape, const std::string& offsets) {
    Reject(c, name, "{" + Entry("a", dtype, shape, offsets) + "}", "", "overflows 64 bits");
  };
  overflow("product 2^64 wraps to 0", "U8", "[4294967296,4294967296]", "[0,0]");
  overflow("product 2^66 wraps to 0", "F32", "[4611686018427387904,16]", "[0,0]");
  overflow("product 3*2^64 wraps to 0", "U8", "[3,4294967296,4294967296]", "[0,0]");
  overflow("2^61 64-bit values wrap to 0", "I64", "[2305843009213693952]", "[0,0]");
  overflow("2^62 bits times 4", "F4", "[4611686018427387904]", "[0,0]");
  overflow("2^61 bytes in bits", "U8", "[2305843009213693952]", "[0,2305843009213693952]");
  overflow("overflow before a zero", "U8", "[4611686018427387904,4,0]", "[0,0]");
  overflow("many large dimensions", "U8", "[" + Repeat("9223372036854775807,", 20) + "1]", "[0,1]");
  Accept(c, "zero before an overflow",
         "{" + Entry("a", "U8", "[0,4611686018427387904,4]", "[0,0]") + "}");
  Accept(c, "largest dimension beside zero",
         "{" + Entry("a", "U8", "[9223372036854775807,0]", "[0,0]") + "}");
  Stricter(c, "dimension 2^63 beside zero",
           "{" + Entry("a", "U8", "[9223372036854775808,0]", "[0,0]") + "}", "",
           "shape[0] must be below 2^63, got 9223372036854775808");
  Stricter(c, "dimension 2^64-1 beside zero",
           "{" + Entry("a", "U8", "[18446744073709551615,0]", "[0,0]") + "}", "",
           "shape[0] must be below 2^63");
  Reject(c, "dimension 2^64-1",
         "{" + Entry("a", "U8", "[18446744073709551615]", "[0,18446744073709551615]") + "}", "x",
         "");
  Reject(c, "large shape, small data", "{" + Entry("a", "F32", "[1000000,1000000]", "[0,4]") + "}",
         "1234", "must span the 4000000000000 bytes");
}

void AddLayout(Cases& c) {
  const auto two = [](const std::string& first, const std::string& second) {
    return "{" + Entry("a", "U8", "[2]", first) + "," + Entry("b", "U8", "[2]", second) + "}";
  };
  Accept(c, "two tensors", two("[0,2]", "[2,4]"), "aabb");
  Accept(c, "listed in the other order", two("[2,4]", "[0,2]"), "bbaa");
  Reject(
      c, "hole at the start", "{" + Entry("a", "U8", "[2]", "[1,3]") + "}", "xaa",
      "tensor \"a\": data_offsets [1, 3] must begin at 0, where the tensor before it ends: a hole");
  Reject(c, "hole between", two("[0,2]", "[3,5]"), "aaxbb",
         "tensor \"b\": data_offsets [3, 5] must begin at 2");
  Reject(c, "overlap by one", two("[0,2]", "[1,3]"), "abb",
         "tensor \"b\": data_offsets [1, 3] must begin at 2, "
         "where the tensor before it ends: an overlap");
  Reject(c, "same range twice", two("[0,2]", "[0,2]"), "aa", "an overlap");
  Reject(c, "one inside the other",
         "{" + Entry("a", "U8", "[4]", "[0,4]") + "," + Entry("b", "U8", "[2]", "[1,3]") + "}",
         "aaaa", "an overlap");
  Reject(c, "trailing byte", kOneByte, "xy", "tensors end at byte 1 of the data, the file has 2");
  Reject(c, "trailing data without tensors", "{}", "x", "tensors end at byte 0");
  Reject(c, "hole at the end", two("[0,2]", "[2,4]"), "aabbx", "tensors end at byte 4");
  Reject(c, "data missing", kOneByte, "", "lie beyond the file's 0 bytes of data");
  Reject(c, "data cut", two("[0,2]", "[2,4]"), "aab",
         "tensor \"b\": data_offsets [2, 4] lie beyond");
  Reject(c, "offsets that decrease", "{" + Entry("a", "U8", "[0]", "[1,0]") + "}", "x",
         "tensor \"a\": data_offsets [1, 0] must not decrease");
  Reject(c, "offsets that decrease by the size", "{" + Entry("a", "U8", "[1]", "[1,0]") + "}", "x",
         "must not decrease");
  Reject(c, "end 2^64-1", "{" + Entry("a", "U8", "[1]", "[0,18446744073709551615]") + "}", "x",
         "must span the 1 bytes");
  Reject(c, "begin 2^64-1",
         "{" + Entry("a", "U8", "[0]", "[18446744073709551615,18446744073709551615]") + "}", "",
         "a hole");
  // Each is in itself consistent; together they wrap around 64 bits to the file's true size.
  std::string wrap = "{";
  const uint64_t quarter = uint64_t{1} << 60;
  for (uint64_t i = 0; i < 16; ++i) {
    absl::StrAppend(&wrap, i == 0 ? "" : ",",
                    Entry(absl::StrCat("t", i), "U8", absl::StrCat("[", quarter, "]"),
                          absl::StrCat("[", i * quarter, ",", (i + 1) * quarter, "]")));
  }
  Reject(c, "sizes that add up to 2^64", wrap + "}", "", "tensor \"t");
  Accept(c, "empty tensor first",
         "{" + Entry("e", "F32", "[0]", "[0,0]") + "," + Entry("a", "U8", "[1]", "[0,1]") + "}",
         "x");
  Accept(c, "empty tensor between",
         "{" + Entry("a", "U8", "[1]", "[0,1]") + "," + Entry("e", "F32", "[0]", "[1,1]") + "," +
             Entry("b", "U8", "[1]", "[1,2]") + "}",
         "xy");
  Accept(c, "empty tensors last",
         "{" + Entry("a", "U8", "[1]", "[0,1]") + "," + Entry("e", "F32", "[0]", "[1,1]") + "," +
             Entry("f", "F32", "[0]", "[1,1]") + "}",
         "x");
  Reject(c, "empty tensor inside another",
         "{" + Entry("a", "U8", "[2]", "[0,2]") + "," + Entry("e", "F32", "[0]", "[1,1]") + "}",
         "xy", "tensor \"e\"");
  Reject(c, "empty tensor beyond the end",
         "{" + Entry("a", "U8", "[1]", "[0,1]") + "," + Entry("e", "F32", "[0]", "[2,2]") + "}",
         "x", "tensor \"e\"");
  std::string many = "{";
  for (int i = 0; i < 300; ++i) {
    absl::StrAppend(&many, i == 0 ? "" : ",",
                    Entry(absl::StrCat("layer.", i), "BF16", "[3]",
                          absl::StrCat("[", 6 * i, ",", 6 * i + 6, "]")));
  }
  Accept(c, "300 tensors", many + "}", std::string(1800, 'x'));
}

}  // namespace

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  return Length(header.size()) + header + data;
}

const std::vector<SafetensorsCase>& SafetensorsCorpus() {
  static const Cases& cases = *[] {
    auto* built = new Cases;
    AddLengths(*built);
    AddJson(*built);
    AddNames(*built);
    AddMetadata(*built);
    AddFields(*built);
    AddSizes(*built);
    AddLayout(*built);
    return built;
  }();
  return cases;
}

}  // namespace sparse_attention
