"""The wheel as a user gets it: installed into a fresh environment without any index, then a sparse generation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sysconfig
import venv
import zipfile

import pytest

WHEEL = next(pathlib.Path("python").glob("*.whl"))
MODEL = pathlib.Path("models/retrieval-6m")

GENERATE = """
import json, pathlib, sys
import torch, transformers
import sparse_attention_hub as sah
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
ids = tokenizer("One two three four five. " * 60, return_tensors="pt")
pipeline = {"type": "research", "maskers": [{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16},
                                            {"type": "oracle_top_k", "heavy_size": 16}]}
sink = sah.MemorySink()
with torch.no_grad(), sah.sparse(model, pipeline, metrics=sink):
    out = model.generate(**ids, max_new_tokens=6, do_sample=False)
print(json.dumps({"new": out.shape[1] - ids["input_ids"].shape[1], "density": sink.mean("research_attention_density"),
                  "package": sah.__file__, "version": sah.__version__}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    # torch and transformers are those of the project's environment; the package itself is not in there.
    packages.joinpath("project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", WHEEL],
        check=True,
    )
    return folder


def run(environment: pathlib.Path, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [environment / "bin/python", *arguments], check=True, capture_output=True, text=True, env=clean, cwd=environment
    ).stdout


def test_a_sparse_generation(environment: pathlib.Path) -> None:
    said = json.loads(run(environment, "-c", GENERATE, str(MODEL.resolve())).splitlines()[-1])
    assert said["new"] == 6
    assert 0 < said["density"] < 0.5
    assert pathlib.Path(said["package"]).is_relative_to(environment)
    assert f"-{said['version']}-" in WHEEL.name


def test_importing_is_quick(environment: pathlib.Path) -> None:
    """At most 150 ms over `import torch`: the best of five, since other processes share the machine."""
    text = "import time, torch; a = time.perf_counter(); import sparse_attention_hub; print(time.perf_counter() - a)"
    assert min(float(run(environment, "-c", text)) for _ in range(5)) < 0.150


def test_importing_leaves_the_rest_alone(environment: pathlib.Path) -> None:
    text = (
        "import sys, sparse_attention_hub; "
        "print(sorted({'transformers', 'yaml', 'ray', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert run(environment, "-c", text).strip() == "[]"


def test_nothing_points_to_the_machine_that_built_it(tmp_path: pathlib.Path) -> None:
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(tmp_path)
    libraries = sorted(tmp_path.rglob("*.so*"))
    assert any(library.name.startswith("_core") for library in libraries)
    for library in libraries:
        dynamic = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
        paths = [line for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line]
        assert len(paths) == 1 and "[$ORIGIN" in paths[0] and ":/" not in paths[0], (library, paths)


def test_metadata() -> None:
    with zipfile.ZipFile(WHEEL) as wheel:
        metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
        assert any(name.endswith("py.typed") for name in wheel.namelist())
    head = metadata.split("\n\n")[0].splitlines()
    assert "License-Expression: Apache-2.0" in head
    unconditional = [line for line in head if line.startswith("Requires-Dist") and "extra" not in line]
    minor = importlib.metadata.version("torch").split(".")[1]
    assert unconditional == [f"Requires-Dist: torch>=2.{minor},<2.{int(minor) + 1}"]
    assert [line.split()[1] for line in head if line.startswith("Provides-Extra")] == ["hf", "plot", "sweep"]


