"""The project's build rules: warnings are errors in our own code, tests are named for what they need."""

_COPTS = [
    "-Wall",
    "-Wextra",
    "-Werror",
]

def sa_cc_library(name, copts = [], linkopts = [], hot_loops = False, **kwargs):
    """A library. `hot_loops`: own loops over tensors, in vectors and, by at::parallel_for, in threads."""
    if hot_loops:
        # Without OpenMP at::parallel_for runs in one thread. The library is the one that LibTorch brings.
        copts = copts + ["-O3", "-fopenmp"]
        linkopts = linkopts + ["-l:libgomp.so.1"]
    native.cc_library(name = name, copts = _COPTS + copts, linkopts = linkopts, linkstatic = True, **kwargs)

def sa_cc_binary(name, copts = [], **kwargs):
    native.cc_binary(name = name, copts = _COPTS + copts, **kwargs)

def sa_cc_test(name, torch = False, size = "small", deps = [], tags = [], copts = [], env = {}, **kwargs):
    """A GoogleTest program. Without `torch` it is also run under the sanitizers."""
    native.cc_test(
        name = name,
        size = size,
        copts = _COPTS + copts,
        linkstatic = True,
        tags = tags + ([] if torch else ["torch_free"]),
        # Bazel runs a test a core; threads of LibTorch beyond that wait for one another.
        env = dict({"OMP_NUM_THREADS": "1"} if torch else {}, **env),
        deps = deps + ["@system//:gtest_main"],
        **kwargs
    )

_C_COPTS = _COPTS + ["-std=c99", "-pedantic"]

def sa_c_binary(name, **kwargs):
    native.cc_binary(name = name, copts = _C_COPTS, linkopts = ["-lm"], **kwargs)

def sa_c_test(name, srcs, deps, size = "small", tags = []):
    """A program in C99 that fails by its exit status. Also run under the sanitizers."""
    native.cc_test(
        name = name,
        size = size,
        srcs = srcs,
        copts = _C_COPTS,
        linkopts = ["-lm"],
        linkstatic = True,
        tags = tags + ["torch_free"],
        deps = deps,
    )

def sa_cc_benchmark(name, tags = [], deps = [], copts = [], **kwargs):
    """A benchmark program: run by people with `bazel run`, never timed by a test."""
    native.cc_binary(
        name = name,
        testonly = True,
        copts = _COPTS + copts,
        tags = tags + ["benchmark"],
        deps = deps,
        **kwargs
    )

def sa_py_test(name, srcs, size = "medium", data = [], args = [], tags = [], env = {}):
    """Runs pytest in the project's Python environment over `srcs`."""
    native.sh_test(
        name = name,
        size = size,
        srcs = ["//bazel:run_pytest.sh"],
        args = ["$(location @python_env//:python)"] + ["$(location %s)" % s for s in srcs] + args,
        data = srcs + data + ["@python_env//:python"],
        tags = tags,
        env = env,
    )

def sa_package_test(name, srcs, data = [], env = {}, **kwargs):
    """A pytest of `import sparse_attention_hub`, the package as it is built."""
    sa_py_test(
        name = name,
        srcs = srcs,
        data = data + ["//python/sparse_attention_hub"],
        # Threads of LibTorch beyond a test's core wait for one another.
        env = dict({"PYTHONPATH": "python", "OMP_NUM_THREADS": "1"}, **env),
        **kwargs
    )

def sa_package_benchmark(name, src, data = []):
    """A benchmark of `import sparse_attention_hub`: run by people with `bazel run`, never timed by a test."""
    native.sh_binary(
        name = name,
        testonly = True,
        srcs = ["//bazel:run_python.sh"],
        args = ["$(location @python_env//:python)", "$(location %s)" % src],
        data = [src, "//python/sparse_attention_hub", "@python_env//:python"] + data,
        tags = ["benchmark"],
    )

_MASKER_DEPS = [
    "//sparse_attention/attention:attention_inputs",
    "//sparse_attention/base:status",
    "//sparse_attention/mask",
    "//sparse_attention/mask:mask_ops",
    "//sparse_attention/research_attention/maskers:masker",
    "//sparse_attention/research_attention/maskers:selection",
    "@python_env//:torch",
]

_CONFIG_DEPS = [
    "//sparse_attention/base:status",
    "//sparse_attention/config:budget",
    "//sparse_attention/config:enum_names",
    "//sparse_attention/config:field",
    "@system//:absl_strings",
]

def sa_masker(name, deps = [], config_deps = [], test_deps = [], test_size = "medium", srcs = []):
    """One method: x.h, x.cc and x_test.cc. sa_all_maskers in the same folder collects it.

    A config that something without LibTorch reads is in a header of its own, x_config.h (and x_config.cc).
    """
    config_hdrs = native.glob([name + "_config.h"])
    if config_hdrs:
        sa_cc_library(
            name = name + "_config",
            srcs = native.glob([name + "_config.cc"]),
            hdrs = config_hdrs,
            tags = ["masker_config"],
            deps = _CONFIG_DEPS + config_deps,
        )
        deps = [":" + name + "_config"] + deps
    sa_cc_library(
        name = name,
        srcs = [name + ".cc"] + srcs,
        hdrs = [name + ".h"],
        tags = ["masker"],
        deps = _MASKER_DEPS + deps,
    )
    sa_cc_test(
        name = name + "_test",
        size = test_size,
        srcs = [name + "_test.cc"],
        torch = True,
        deps = [
            ":" + name,
            "//sparse_attention/base:status_matchers",
            "//sparse_attention/research_attention/maskers:masker_testing",
        ] + test_deps,
    )

def sa_all_maskers(name):
    """A library of every sa_masker above it in the same BUILD file."""
    _collect(name, "masker")

def sa_all_masker_configs(name):
    """A library of the configs, as far as they are free of LibTorch, of every sa_masker above it."""
    _collect(name, "masker_config")

def _collect(name, tag):
    sa_cc_library(
        name = name,
        deps = [":" + r["name"] for r in native.existing_rules().values() if tag in r["tags"]],
    )

_AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt"]
_AVX512 = _AVX2 + ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd"]
_AVX512_BF16 = _AVX512 + [
    "-mavx512bf16",
    "-mavx512vnni",
    "-mavx512vbmi",
    "-mavx512vbmi2",
    "-mavx512bitalg",
    "-mavx512vpopcntdq",
]
# Under a sanitizer, which compiles in this mode, full optimization takes minutes a kernel.
_KERNEL_OPTIMIZATION = select({
    "//bazel:fastbuild": ["-O1"],
    "//conditions:default": ["-O3"],
})
_ISAS = {
    "generic": [],
    "avx2": _AVX2,
    "avx512": _AVX512,
    "avx512_bf16": _AVX512_BF16,
    # The baseline of every AArch64 compiler: simd.h tells it from the generic set by the macro.
    "neon": ["-DSA_NEON"],
}

def _by_machine(template):
    """`template` with the name of each instruction set that kernels are compiled for on the target machine."""
    return select({
        "//bazel:aarch64": [template % isa for isa in ["generic", "neon"]],
        "//conditions:default": [template % isa for isa in ["generic", "avx2", "avx512", "avx512_bf16"]],
    })

def sa_cpu_kernel(name, kernel, hdrs, srcs = [], deps = [], textual_hdrs = [], testonly = False):
    """A CPU kernel: `kernel` is compiled once for every instruction set, in the namespace SA_ISA names.

    `hdrs` declare it, `srcs` choose among the variants at run time and are compiled for every machine.
    """
    native.cc_library(
        name = name + "_headers",
        testonly = testonly,
        hdrs = hdrs,
        textual_hdrs = textual_hdrs,
        visibility = ["//visibility:private"],
        deps = deps,
    )
    for isa, copts in _ISAS.items():
        # `//...` leaves out what the usual machine cannot compile.
        tags = ["manual"] if isa == "neon" else []
        native.cc_library(
            name = name + "_" + isa,
            testonly = testonly,
            srcs = [kernel],
            # GCC 12 takes the undefined operands in its own AVX-512 header for a mistake.
            copts = _COPTS + _KERNEL_OPTIMIZATION + ["-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-psabi", "-DSA_ISA=" + isa] + copts,
            linkstatic = True,
            tags = tags,
            visibility = ["//visibility:private"],
            deps = [":" + name + "_headers"],
        )
        native.filegroup(
            name = name + "_" + isa + "_archive",
            testonly = testonly,
            srcs = [":" + name + "_" + isa],
            output_group = "archive",
            tags = tags,
        )
    native.cc_library(
        name = name,
        testonly = testonly,
        srcs = srcs,
        hdrs = hdrs,
        copts = _COPTS,
        linkstatic = True,
        deps = deps + _by_machine(":" + name + "_%s"),
    )
    native.sh_test(
        name = name + "_symbols_test",
        size = "small",
        srcs = ["//bazel:isa_symbols_test.sh"],
        args = _by_machine("$(locations :" + name + "_%s_archive)"),
        data = _by_machine(":" + name + "_%s_archive"),
        tags = ["isa_symbols"],
    )
