"""The CUDA toolkit as a repository: its compiler's place, headers and the static runtime.

It is SA_CUDA, or what `tools/dev cuda` installed, or /usr/local/cuda. Without one the repository is there but empty:
what needs it is built with --config=cuda alone.
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

# In the order of the compiler's own: a system's headers, so that their warnings are nobody's.
cc_library(
    name = "cudart",
    hdrs = glob(["include/**/*"]),
    includes = ["include"],
    linkopts = [{linkopts}],
)
"""

def _impl(ctx):
    dev = ctx.path(Label("//tools:dev"))
    root = ctx.os.environ.get("SA_CUDA") or ctx.execute([dev, "cuda-path"]).stdout.strip()
    nvcc, version, linkopts = "", "", ""
    if root:
        nvcc = root + "/bin/nvcc"
        probe = ctx.execute([nvcc, "--version"])
        if probe.return_code:
            fail("no CUDA compiler at %s; run ./tools/dev cuda, or set SA_CUDA\n%s" % (nvcc, probe.stderr))
        version = probe.stdout.strip().split("\n")[-1]
        ctx.symlink(root + "/include", "include")
        lib = root + ("/lib64" if ctx.path(root + "/lib64").exists else "/lib")
        linkopts = ", ".join(["\"%s\"" % option for option in [
            "-L" + lib,
            "-l:libcudart_static.a",
            "-lrt",
            "-ldl",
            "-lpthread",
        ]])
    ctx.file("BUILD", _BUILD.format(linkopts = linkopts))
    ctx.file("defs.bzl", "NVCC = \"%s\"\nNVCC_VERSION = \"%s\"\n" % (nvcc, version))

cuda_toolkit = repository_rule(
    implementation = _impl,
    configure = True,
    environ = ["HOME", "SA_CUDA"],
    local = True,
)
