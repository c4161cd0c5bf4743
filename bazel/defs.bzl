"""The project's build rules: warnings are errors in our own code, tests are named for what they need."""

_COPTS = [
    "-Wall",
    "-Wextra",
    "-Werror",
]

def sa_cc_library(name, copts = [], **kwargs):
    native.cc_library(name = name, copts = _COPTS + copts, linkstatic = True, **kwargs)

def sa_cc_binary(name, copts = [], **kwargs):
    native.cc_binary(name = name, copts = _COPTS + copts, **kwargs)

def sa_cc_test(name, torch = False, size = "small", deps = [], tags = [], copts = [], **kwargs):
    """A GoogleTest program. Without `torch` it is also run under the sanitizers."""
    native.cc_test(
        name = name,
        size = size,
        copts = _COPTS + copts,
        linkstatic = True,
        tags = tags + ([] if torch else ["torch_free"]),
        deps = deps + ["@system//:gtest_main"],
        **kwargs
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
