#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sparse_attention::cpu {
namespace {

std::vector<Isa> Detect() {
  std::vector<Isa> isas = {Isa::kGeneric};
#if defined(__x86_64__)
  __builtin_cpu_init();
  // __builtin_cpu_supports also asks the operating system whether it keeps the registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c") || !__builtin_cpu_supports("bmi2") ||
      !__builtin_cpu_supports("popcnt") || !__builtin_cpu_supports("lzcnt")) {
    return isas;
  }
  isas.push_back(Isa::kAvx2);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512cd")) {
    return isas;
  }
  isas.push_back(Isa::kAvx512);
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
      __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vpopcntdq")) {
    isas.push_back(Isa::kAvx512Bf16);
  }
#elif defined(__aarch64__)
  isas.push_back(Isa::kNeon);
#endif
  return isas;
}

Isa Choose() {
  const std::span<const Isa> isas = SupportedIsas();
  const char* wanted = std::getenv("SA_ISA");
  if (wanted == nullptr || *wanted == '\0') return isas.back();
  for (Isa isa : isas) {
    if (std::string_view(wanted) == IsaName(isa)) return isa;
  }
  std::fprintf(stderr, "SA_ISA must be one of");
  for (Isa isa : isas) std::fprintf(stderr, " %s", IsaName(isa));
  std::fprintf(stderr, " on this machine, got %s\n", wanted);
  std::exit(2);
}

bool DetectNearPrefetch() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0) return true;
  const bool amd = ebx == signature_AMD_ebx && ecx == signature_AMD_ecx;
  if (!amd || __get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return true;
  const unsigned base = eax >> 8 & 0xF, extended = eax >> 20 & 0xFF;
  return base + (base == 0xF ? extended : 0) > 0x19;  // 0x17 and 0x19 are Zen 1 to 4
#else
  return true;
#endif
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kNeon:
      return "neon";
  }
  return "unknown";
}

std::span<const Isa> SupportedIsas() {
  static const std::vector<Isa> isas = Detect();
  return isas;
}

Isa BestIsa() {
  static const Isa best = Choose();
  return best;
}

bool PrefersNearPrefetch() {
  static const bool near = DetectNearPrefetch();
  return near;
}

}  // namespace sparse_attention::cpu
