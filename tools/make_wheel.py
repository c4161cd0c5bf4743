#!/usr/bin/env python3
"""Packs `import sparse_attention_hub` into a wheel.

  make_wheel.py --out sparse_attention_hub-0.1.0-cp311-cp311-linux_x86_64.whl \
      --module _core.cpython-311-x86_64-linux-gnu.so --torch 2.11.0 --root python --license LICENSE \
      --readme README.md \
      python/sparse_attention_hub/__init__.py ...

The compiled module finds LibTorch in the torch wheel beside it and brings along the shared libraries of Debian that it
needs. The tag is linux_x86_64: libraries of Debian 12 ask for a newer glibc than the manylinux tags allow. The same
input gives the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "sparse_attention_hub"
SUMMARY = "Sparse attention for long-context language models: maskers, engines and a transformers adapter on a C++ core"
# What parts of the package ask for.
EXTRAS = {
    "hf": ["transformers>=4.57", "PyYAML"],
    "plot": ["vl-convert-python>=1.9"],
    "sweep": ["ray[tune]>=2.40"],
}
# Shared libraries that every machine with torch has.
PRESENT = re.compile(
    r"lib(torch|torch_cpu|torch_python|c10|gomp|stdc\+\+|m|gcc_s|c|pthread|dl|rt)\.so|ld-linux")


def needed(path: pathlib.Path) -> list[str]:
    text = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text)


def find_library(name: str) -> pathlib.Path:
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"):
        path = pathlib.Path(folder, name)
        if path.exists():
            return path.resolve()
    sys.exit(f"make_wheel.py: {name} was not found")


def bundled_libraries(module: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name -> file of every library that the module needs and that is not on every machine."""
    found: dict[str, pathlib.Path] = {}
    queue = [module]
    while queue:
        for name in needed(queue.pop()):
            if name not in found and not PRESENT.match(name):
                found[name] = find_library(name)
                queue.append(found[name])
    return found


def highest_versions(files: list[pathlib.Path]) -> str:
    text = "".join(
        subprocess.run(["readelf", "-V", f], check=True, capture_output=True, text=True).stdout for f in files)
    newest = []
    for prefix in ("GLIBC", "GLIBCXX"):
        versions = {tuple(map(int, v.split("."))) for v in re.findall(rf"\b{prefix}_([\d.]+)", text)}
        if versions:
            newest.append(f"{prefix} {'.'.join(map(str, max(versions)))}")
    return ", ".join(newest)


def required_torch(built_with: str) -> str:
    """The minor version that the module was built with: LibTorch's C++ interface changes with each."""
    major, minor = map(int, built_with.split(".")[:2])
    return f"torch>={major}.{minor},<{major}.{minor + 1}"


def metadata(version: str, torch: str, readme: str) -> str:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {PACKAGE}",
        f"Version: {version}",
        f"Summary: {SUMMARY}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.10",
        "Classifier: Programming Language :: C++",
        "Classifier: Programming Language :: Python :: 3",
        "Classifier: Operating System :: POSIX :: Linux",
        "Description-Content-Type: text/markdown",
        f"Requires-Dist: {torch}",
    ]
    for extra, requirements in EXTRAS.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {requirement}; extra == "{extra}"' for requirement in requirements]
    return "\n".join(lines) + "\n\n" + readme


class Wheel:
    """A zip whose entries carry no time, with the list of checksums that wheels end with."""

    def __init__(self, path: pathlib.Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self._record: list[str] = []

    def add(self, name: str, data: bytes, executable: bool = False) -> None:
        info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        info.external_attr = (0o755 if executable else 0o644) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self._zip.writestr(info, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self._record.append(f"{name},sha256={digest},{len(data)}")

    def close(self, record: str) -> None:
        self._record.append(f"{record},,")
        info = zipfile.ZipInfo(record, (2020, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, "\n".join(self._record) + "\n")
        self._zip.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the wheel; its name is checked")
    parser.add_argument("--module", type=pathlib.Path, required=True, help="the compiled module")
    parser.add_argument("--torch", required=True, help="version of torch that the module was built with")
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder that holds the package")
    parser.add_argument("--license", type=pathlib.Path, required=True)
    parser.add_argument("--readme", type=pathlib.Path, required=True)
    parser.add_argument("sources", type=pathlib.Path, nargs="+", help="the package's other files")
    args = parser.parse_args()

    init = next(s for s in args.sources if s.match(f"{PACKAGE}/__init__.py")).read_text()
    version = re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE).group(1)
    python_tag = "cp" + re.search(r"cpython-(\d+)", args.module.name).group(1)
    tag = f"{python_tag}-{python_tag}-linux_x86_64"
    info = f"{PACKAGE}-{version}.dist-info"
    if args.out.name != f"{PACKAGE}-{version}-{tag}.whl":
        sys.exit(f"make_wheel.py: the wheel must be named {PACKAGE}-{version}-{tag}.whl, got {args.out.name}")
    wheel = Wheel(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        shipped = []
        libraries = bundled_libraries(args.module)
        for name, source, rpath in [
            (args.module.name, args.module, "$ORIGIN/lib:$ORIGIN/../torch/lib"),
            *((f"lib/{name}", source, "$ORIGIN") for name, source in sorted(libraries.items())),
        ]:
            copy = pathlib.Path(scratch, pathlib.Path(name).name)
            shutil.copyfile(source, copy)
            subprocess.run(["strip", "--strip-unneeded", copy], check=True)
            subprocess.run(["patchelf", "--set-rpath", rpath, copy], check=True)
            wheel.add(f"{PACKAGE}/{name}", copy.read_bytes(), executable=True)
            shipped.append(copy)
        symbols = highest_versions(shipped)
    for source in sorted(args.sources):
        wheel.add(source.relative_to(args.root).as_posix(), source.read_bytes())
    wheel.add(f"{info}/licenses/LICENSE", args.license.read_bytes())
    wheel.add(f"{info}/METADATA", metadata(version, required_torch(args.torch), args.readme.read_text()).encode())
    wheel.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: make_wheel\nRoot-Is-Purelib: false\nTag: {tag}\n".encode())
    wheel.close(f"{info}/RECORD")
    print(f"{args.out.name}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(libraries)} bundled libraries, needs {symbols}")


if __name__ == "__main__":
    main()
