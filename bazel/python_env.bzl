"""The Python environment as a repository: its interpreter, headers, and the LibTorch inside its torch wheel.

The interpreter is SA_PYTHON, or the one that `tools/dev setup` made.
"""

_PROBE = """
import importlib.metadata, importlib.util, os, sysconfig
print(sysconfig.get_path("include"))
print(os.path.dirname(importlib.util.find_spec("torch").origin))
print(sysconfig.get_config_var("EXT_SUFFIX"))
print(importlib.metadata.version("torch"))
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

exports_files(["python"])

cc_library(
    name = "python_headers",
    hdrs = glob(["python_include/**/*.h"]),
    includes = ["python_include"],
)

cc_library(
    name = "torch",
    hdrs = glob(["torch_include/**/*.h", "torch_include/**/*.hpp"], exclude = ["torch_include/pybind11/**"]),
    includes = ["torch_include", "torch_include/torch/csrc/api/include"],
    linkopts = [
        "-L{torch}/lib",
        "-Wl,-rpath,{torch}/lib",
        "-Wl,--no-as-needed",
        "-ltorch_cpu",
        "-lc10",
        "-Wl,--as-needed",
    ],
)

# For modules that Python loads.
cc_library(
    name = "torch_python",
    linkopts = [
        "-L{torch}/lib",
        "-ltorch_python",
    ],
    deps = [
        ":python_headers",
        ":torch",
    ],
)

# For programs that also use CUDA tensors: keeps libtorch_cuda, which registers the CUDA operators.
cc_library(
    name = "torch_cuda",
    linkopts = [
        "-L{torch}/lib",
        "-Wl,--no-as-needed",
        "-ltorch_cuda",
        "-lc10_cuda",
        "-Wl,--as-needed",
        "-Wl,--unresolved-symbols=ignore-in-shared-libs",
    ],
    deps = [":torch"],
)
"""

def _impl(ctx):
    dev = ctx.path(Label("//tools:dev"))
    python = ctx.os.environ.get("SA_PYTHON") or ctx.execute([dev, "python-path"]).stdout.strip()
    probe = ctx.execute([python, "-c", _PROBE])
    if probe.return_code:
        fail("no Python with torch at %s; run ./tools/dev setup\n%s" % (python, probe.stderr))
    include, torch, suffix, version = probe.stdout.strip().split("\n")
    ctx.symlink(include, "python_include")
    ctx.symlink(torch + "/include", "torch_include")
    ctx.file("BUILD", _BUILD.format(torch = torch))
    ctx.file("python", "#!/bin/sh\nexec %s \"$@\"\n" % python, executable = True)
    ctx.file("defs.bzl", "EXTENSION_SUFFIX = \"%s\"\nTORCH_VERSION = \"%s\"\n" % (suffix, version))

python_env = repository_rule(
    implementation = _impl,
    configure = True,
    environ = ["HOME", "SA_PYTHON"],
    local = True,
)
