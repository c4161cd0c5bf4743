"""CUDA libraries, tests and benchmarks. They exist under --config=cuda; elsewhere //... leaves them out."""

load("//bazel:defs.bzl", "sa_cc_benchmark", "sa_cc_library", "sa_cc_test")
load("@cuda//:defs.bzl", "NVCC", "NVCC_VERSION")

# Machine code for A100 and H100/H200 (whose own instructions need the "a"), and PTX for what comes after.
_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_90a,code=sm_90a",
]

CUDA_ONLY = select({
    "//bazel:cuda": [],
    "//conditions:default": ["@platforms//:incompatible"],
})

def _nvcc_object_impl(ctx):
    if not NVCC:
        fail("--config=cuda needs a CUDA compiler: run ./tools/dev cuda, or set SA_CUDA to a toolkit's folder")
    headers = depset(transitive = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps])
    out = ctx.actions.declare_file(ctx.label.name + ".o")
    arguments = ctx.actions.args()
    arguments.add_all(["-std=c++20", "-O3", "--fmad=true", "-Werror", "all-warnings"])
    arguments.add_all(_ARCHITECTURES)
    arguments.add_all(["-Xcompiler", "-fPIC,-Wall,-Werror,-ffp-contract=off"])
    arguments.add_all(["-I.", "-I" + ctx.bin_dir.path])
    arguments.add_all(ctx.attr.defines, format_each = "-D%s")
    arguments.add_all(["-c", ctx.file.src.path, "-o", out])
    ctx.actions.run(
        executable = NVCC,
        arguments = [arguments],
        inputs = depset([ctx.file.src], transitive = [headers]),
        outputs = [out],
        # What the key of a cache must know beside the inputs.
        env = {"PATH": "/usr/bin:/bin", "NVCC_VERSION": NVCC_VERSION},
        mnemonic = "NvccCompile",
        progress_message = "Compiling %s for CUDA (%s)" % (ctx.file.src.short_path, ctx.label.name),
    )
    return [DefaultInfo(files = depset([out]))]

_nvcc_object = rule(
    implementation = _nvcc_object_impl,
    attrs = {
        "src": attr.label(allow_single_file = [".cu"]),
        "deps": attr.label_list(providers = [CcInfo]),
        "defines": attr.string_list(),
    },
)

def sa_cuda_library(name, hdrs, srcs = [], variants = {}, textual_hdrs = [], deps = [], testonly = False):
    """A library of CUDA C++.

    `srcs`: .cu files, each compiled once. `variants`: a name -> (a .cu file, defines): one file compiled several
    times, where a single compilation of all instances would take minutes.
    """
    native.cc_library(
        name = name + "_headers",
        testonly = testonly,
        hdrs = hdrs,
        textual_hdrs = textual_hdrs,
        target_compatible_with = CUDA_ONLY,
        visibility = ["//visibility:private"],
        deps = deps + ["@cuda//:cudart"],
    )
    objects = {src[:-len(".cu")]: (src, []) for src in srcs}
    objects.update(variants)
    for variant, (src, defines) in objects.items():
        _nvcc_object(
            name = "%s_%s_object" % (name, variant),
            testonly = testonly,
            src = src,
            defines = defines,
            target_compatible_with = CUDA_ONLY,
            visibility = ["//visibility:private"],
            deps = [":" + name + "_headers"],
        )
    sa_cc_library(
        name = name,
        testonly = testonly,
        srcs = [":%s_%s_object" % (name, variant) for variant in objects],
        hdrs = hdrs,
        target_compatible_with = CUDA_ONLY,
        deps = deps + ["@cuda//:cudart"],
    )

def sa_cuda_test(name, **kwargs):
    """A GoogleTest program over CUDA libraries: it skips itself without a device."""
    sa_cc_test(
        name = name,
        tags = ["cuda"],
        target_compatible_with = CUDA_ONLY,
        **kwargs
    )

def sa_cuda_benchmark(name, **kwargs):
    sa_cc_benchmark(
        name = name,
        target_compatible_with = CUDA_ONLY,
        **kwargs
    )
