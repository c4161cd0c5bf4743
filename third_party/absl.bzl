"""The Abseil libraries that anything here uses."""

ABSL_LIBRARIES = [
    "bad_optional_access",
    "bad_variant_access",
    "base",
    "city",
    "civil_time",
    "cord",
    "cord_internal",
    "cordz_functions",
    "cordz_handle",
    "cordz_info",
    "debugging_internal",
    "demangle_internal",
    "exponential_biased",
    "graphcycles_internal",
    "hash",
    "int128",
    "log_severity",
    "low_level_hash",
    "malloc_internal",
    "raw_hash_set",
    "raw_logging_internal",
    "spinlock_wait",
    "stacktrace",
    "status",
    "statusor",
    "str_format_internal",
    "strerror",
    "strings",
    "strings_internal",
    "symbolize",
    "synchronization",
    "throw_delegate",
    "time",
    "time_zone",
]

# Debian's archives are not position independent, so shared objects take its shared libraries. Put before the
# archives: what is found here is not looked for there.
ABSL_SHARED_LINKOPTS = ["-Wl,--as-needed"] + ["-labsl_" + name for name in ABSL_LIBRARIES]
