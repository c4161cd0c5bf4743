// Decode attention on a CUDA device: usage attention_benchmark [JSON_FILE] [NAME_PART].
//
// Launches are captured in a CUDA graph and replayed; each has keys, values and lists of its own,
// more in all than the L2 cache holds by far. The same run measures what the device reads in a
// stream, at best and in launches that read as many bytes as each case. Microseconds are those of a
// launch, best, tenth and fiftieth percentile over replays.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cuda/common/device_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cuda/common/stream_probe.h"

namespace sparse_attention::cuda {
namespace {

constexpr int kHeads = 8, kGroup = 4, kDim = 128;
constexpr int kReplays = 64;
constexpr int64_t kRowBytes = 2 * kDim;

struct Case {
  std::string name;
  int batch, keys;
  int percent;  // of the keys that are read; 100: dense
  int sets;     // of keys and values
};

struct Times {
  double best, p10, median;
};

Times Replay(int launches, const std::function<cudaError_t(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  OrDie(cudaStreamCreate(&stream), "cudaStreamCreate");
  OrDie(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) OrDie(launch(i, stream), "launch");
  cudaGraph_t graph;
  OrDie(cudaStreamEndCapture(stream, &graph), "capture");
  cudaGraphExec_t exec;
  OrDie(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  OrDie(cudaEventCreate(&begin), "event");
  OrDie(cudaEventCreate(&end), "event");
  std::vector<double> us;
  for (int i = -3; i < kReplays; ++i) {
    OrDie(cudaEventRecord(begin, stream), "record");
    OrDie(cudaGraphLaunch(exec, stream), "replay");
    OrDie(cudaEventRecord(end, stream), "record");
    OrDie(cudaEventSynchronize(end), "synchronize");
    float ms = 0;
    OrDie(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 0) us.push_back(1e3 * ms / launches);
  }
  OrDie(cudaGraphExecDestroy(exec), "destroy");
  OrDie(cudaGraphDestroy(graph), "destroy");
  OrDie(cudaEventDestroy(begin), "destroy");
  OrDie(cudaEventDestroy(end), "destroy");
  OrDie(cudaStreamDestroy(stream), "destroy");
  std::sort(us.begin(), us.end());
  return {us[0], us[us.size() / 10], us[us.size() / 2]};
}

// `count` of the keys [begin, end), ascending.
void Choose(std::mt19937_64& random, uint32_t begin, uint32_t end, int64_t count, uint32_t* keys) {
  for (uint32_t key = begin; key < end && count > 0; ++key) {
    if (static_cast<int64_t>(random() % (end - key)) < count) *keys++ = key, --count;
  }
}

std::string Run(const Case& c, const DeviceBuffer<uint16_t>& memory, double stream_rate) {
  const bool sparse = c.percent < 100;
  const int64_t rows = int64_t{c.batch} * kHeads * c.keys, elements = rows * kDim;
  const int sink = 128, local = 128;
  const int64_t listed = sparse ? int64_t{c.keys} * c.percent / 100 - sink - local : 0;
  const int64_t lists = int64_t{c.batch} * kHeads;
  std::mt19937_64 random(1);
  std::vector<uint32_t> keys(static_cast<size_t>(c.sets * lists * listed));
  std::vector<float> weights(keys.size());
  for (int64_t i = 0; sparse && i < c.sets * lists; ++i) {
    Choose(random, sink, static_cast<uint32_t>(c.keys - local), listed, keys.data() + i * listed);
  }
  for (float& w : weights) w = 1 + static_cast<float>(random() % 1024) / 64;
  const DeviceBuffer<uint32_t> device_keys(keys);
  const DeviceBuffer<float> device_weights(weights);
  const DeviceBuffer<int32_t> counts(
      std::vector<int32_t>(static_cast<size_t>(lists), static_cast<int32_t>(listed)));
  const DeviceBuffer<int32_t> lengths(std::vector<int32_t>(static_cast<size_t>(c.batch), c.keys));

  const int64_t heads = kHeads * kGroup;
  const DeviceBuffer<uint16_t> q(c.batch * heads * kDim), out(c.batch * heads * kDim);
  const DeviceBuffer<float> lse(c.batch * heads);
  OrDie(LaunchFillNormal(q.get(), q.size(), 7, nullptr), "fill");
  OrDie(LaunchFillNormal(memory.get(), 2 * elements * c.sets, 1000 + c.percent, nullptr), "fill");
  SparseDecodeParams params;
  DecodeParams& p = params.attention;
  p.dim = kDim;
  p.batch = c.batch;
  p.kv_heads = kHeads;
  p.group = kGroup;
  p.capacity = c.keys;
  p.lengths = lengths.get();
  p.q = q.get();
  p.out = out.get();
  p.q_strides = p.out_strides = {heads * kDim, heads * kDim, kDim};
  p.lse = lse.get();
  p.scale = 1 / std::sqrt(static_cast<float>(kDim));
  p.workspace_bytes = DecodeWorkspaceBytes(p);
  const DeviceBuffer<char> workspace(
      std::vector<char>(static_cast<size_t>(p.workspace_bytes), '\xFF'));
  p.workspace = workspace.get();
  p.cache.row_stride = kRowBytes;
  p.cache.head_stride = c.keys * kRowBytes;
  p.cache.batch_stride = kHeads * p.cache.head_stride;
  KeySelection& s = params.selection;
  s.sink = sink;
  s.local = local;
  s.counts = counts.get();
  s.stride = listed;
  const Times times = Replay(std::max(c.sets, 8), [&](int i, cudaStream_t stream) {
    const int set = i % c.sets;
    p.cache.k = memory.get() + 2 * elements * set;
    p.cache.v = memory.get() + 2 * elements * set + elements;
    s.keys = device_keys.get() + set * lists * listed;
    s.inverse_probabilities = device_weights.get() + set * lists * listed;
    return sparse ? LaunchSparseDecode(params, stream) : LaunchDenseDecode(p, stream);
  });
  // What reading as many bytes takes a kernel that does nothing else.
  const int64_t bytes = rows * 2 * kRowBytes * c.percent / 100 / 16 * 16;
  const DeviceBuffer<uint32_t> bits(1);
  const Times floor = Replay(std::max(c.sets, 8), [&](int i, cudaStream_t stream) {
    return LaunchStreamRead(memory.get() + 2 * elements * (i % c.sets), bytes, bits.get(), stream);
  });
  const double read = static_cast<double>(rows) * c.percent / 100 * 2 * kRowBytes;
  const double rate = read / times.median / 1e6;
  char json[512];
  std::snprintf(json, sizeof(json),
                "{\"name\": \"%s\", \"batch\": %d, \"keys\": %d, \"percent\": %d, "
                "\"us_best\": %.2f, \"us_p10\": %.2f, \"us_median\": %.2f, "
                "\"us_stream_median\": %.2f, \"kv_bytes\": %.0f, \"tb_per_s\": %.3f, "
                "\"share_of_stream\": %.3f}",
                c.name.c_str(), c.batch, c.keys, c.percent, times.best, times.p10, times.median,
                floor.median, read, rate, rate / stream_rate);
  return json;
}

int Main(int argc, char** argv) {
  if (!HasDevice()) {
    std::fprintf(stderr, "attention_benchmark: no CUDA device\n");
    return 1;
  }
  const char* const part = argc > 2 ? argv[2] : "";
  constexpr int kLong = 131072, kShort = 32768;
  std::vector<Case> cases;
  for (int percent : {100, 10, 5, 2}) {
    const std::string kind = percent == 100 ? "dense" : "sparse_" + std::to_string(percent);
    cases.push_back({kind + "_b1_128k", 1, kLong, percent, 16});
    cases.push_back({kind + "_b1_32k", 1, kShort, percent, 64});
    cases.push_back({kind + "_b16_128k", 16, kLong, percent, 2});
  }
  const DeviceBuffer<uint16_t> memory(int64_t{2} * 16 * kLong * kHeads * kDim * 2);
  const DeviceBuffer<uint32_t> sink(1);
  OrDie(LaunchFillNormal(memory.get(), memory.size(), 1, nullptr), "fill");
  constexpr int64_t kProbe = int64_t{1} << 32;
  const Times stream = Replay(4, [&](int i, cudaStream_t s) {
    return LaunchStreamRead(memory.get() + i * (kProbe / 2), kProbe, sink.get(), s);
  });
  const double rate = kProbe / stream.median / 1e6;
  cudaDeviceProp device;
  int driver = 0, clock = 0;
  OrDie(cudaGetDeviceProperties(&device, 0), "properties");
  OrDie(cudaDriverGetVersion(&driver), "driver");
  OrDie(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0), "clock");
  char date[16];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
  std::string json = "{\"device\": \"" + std::string(device.name) + "\", \"date\": \"" + date +
                     "\", \"cuda_driver\": " + std::to_string(driver) +
                     ", \"clock_mhz\": " + std::to_string(clock / 1000) +
                     ", \"stream_tb_per_s\": " + std::to_string(rate) + ",\n \"cases\": [";
  std::printf("stream %.3f TB/s\n", rate);
  const char* separator = "\n  ";
  for (const Case& c : cases) {
    if (c.name.find(part) == std::string::npos) continue;
    const std::string line = Run(c, memory, rate);
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    json += separator + line;
    separator = ",\n  ";
  }
  json += "\n ]}\n";
  if (argc > 1 && std::strcmp(argv[1], "-") != 0) {
    std::FILE* const file = std::fopen(argv[1], "w");
    if (file == nullptr || std::fputs(json.c_str(), file) < 0 || std::fclose(file) != 0) {
      std::fprintf(stderr, "attention_benchmark: cannot write %s\n", argv[1]);
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace sparse_attention::cuda

int main(int argc, char** argv) { return sparse_attention::cuda::Main(argc, argv); }
