"""`_core` itself: values, errors by type, the GIL, sequences, sinks."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
import subprocess
import sys
import threading
import time

import pytest
import torch

from sparse_attention_hub import _core

PIPELINE = json.dumps(
    {"type": "research", "maskers": [{"type": "sink", "sink_size": 2}, {"type": "oracle_top_k", "heavy_size": 3}]}
)


def inputs(queries: int = 1, keys: int = 20, **options: object) -> _core.AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    return _core.AttentionInputs(
        torch.randn(1, 4, queries, 16, generator=generator),
        torch.randn(1, 2, keys, 16, generator=generator),
        torch.randn(1, 2, keys, 16, generator=generator),
        **options,
    )


def attend(handle: torch.Tensor, keys: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 16, generator=generator) for h, n in ((4, 1), (2, keys), (2, keys)))
    return torch.ops.sparse_attention_hub.attend(handle, q, k, v, None, None, None, None, None, True, 0, None)


def test_a_mask_is_a_value() -> None:
    weights = torch.zeros(1, 1, 2, 4)
    weights[0, 0, 0, 1] = 0.5
    mask = _core.Mask.from_dense(weights)
    weights.fill_(1)
    assert mask.to_dense().sum() == 0.5
    mask.to_dense().fill_(1)
    assert mask.to_dense().sum() == 0.5
    assert mask.density() == 1 / 8
    indptr, indices, data = mask.to_csr()
    assert (indptr.tolist(), indices.tolist(), data.tolist()) == ([0, 1, 1], [1], [0.5])
    again = _core.Mask.from_csr([1, 1, 2, 4], indptr, indices, data)
    assert torch.equal(again.to_dense(), mask.to_dense())
    assert again.union(mask).to_dense()[0, 0, 0, 1] == 1.0
    assert _core.Mask.from_dense(torch.ones(1, 1, 2, 4)).normalized().is_full
    assert _core.Mask.empty([1, 1, 2, 4]).union(mask).density() == 1 / 8
    assert mask.shape == (1, 1, 2, 4) and "Mask" in repr(mask)


def test_errors_by_type() -> None:
    with pytest.raises(ValueError, match=r"sink.sink_size must be > 0, got 0"):
        _core.Masker('{"type": "sink", "sink_size": 0}')
    with pytest.raises(KeyError) as unknown:
        _core.Masker('{"type": "sinkk", "sink_size": 4}')
    assert isinstance(unknown.value, _core.NotFoundError)
    assert str(unknown.value).startswith('there is no masker "sinkk" (did you mean "sink"?')
    with pytest.raises(NotImplementedError, match="efficient"):
        _core.HostAttention(
            '{"type": "efficient", "maskers": [{"type": "random_sampling", "sampling_rate": 0.1, "estimator": "hub"}]}'
        )
    with pytest.raises(ValueError, match="selection must be"):
        _core.Masker('{"type": "sink", "sink_size": 4}', selection="everybody")
    with pytest.raises(ValueError, match="shape"):
        _core.Mask.empty([1, 2, 3])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        _core.Mask.from_dense(torch.full((1, 1, 1, 2), 2.0))
    with pytest.raises(ValueError, match="pipeline"):
        _core.read_pipeline('{"maskers": [{"type": "sink", "size": 1}]}')
    with pytest.raises(ValueError, match="KV heads"):
        _core.AttentionInputs(torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))


def test_the_engine_is_the_masks_attention() -> None:
    step = inputs()
    out, lse, mask = _core.ResearchAttention(PIPELINE).run(step, _core.Session())
    assert mask.density() == 5 / 20
    again, again_lse = _core.masked_attention(step, mask)
    torch.testing.assert_close(out, again)
    torch.testing.assert_close(lse, again_lse)
    dense, _ = _core.dense_attention(step)
    error = _core.relative_output_error(out, dense)
    assert error.shape == (1, 4, 1) and 0 < error.max() < 2
    weights = _core.masked_attention_weights(step, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 1))


def test_sessions_are_never_copied() -> None:
    for other in (copy.copy(_core.Session()), copy.deepcopy(_core.Session()), pickle.loads(pickle.dumps(_core.Session()))):
        assert isinstance(other, _core.Session)


def test_a_sequence_lives_as_long_as_it_is_held() -> None:
    sequence = _core.Sequence(_core.HostAttention(PIPELINE))
    handle = sequence.handle
    first = attend(handle)
    assert sequence.steps == 1
    assert torch.equal(attend(handle), first)
    sequence.reset()
    sequence.rewind()
    assert torch.equal(attend(handle), first)
    del sequence
    with pytest.raises(ValueError, match="does not exist"):
        attend(handle)
    with pytest.raises(ValueError, match="handle"):
        attend(torch.zeros(3))


def test_the_gil_is_released_around_work() -> None:
    """Python goes on while the library works: a thread that only counts makes progress."""
    step = inputs(queries=256, keys=4096)
    engine = _core.ResearchAttention(PIPELINE)
    done = threading.Event()

    def work() -> None:
        for _ in range(3):
            engine.run(inputs(queries=256, keys=4096), _core.Session())
        done.set()

    engine.run(step, _core.Session())
    worker = threading.Thread(target=work)
    gaps, last = [], time.perf_counter()
    worker.start()
    while not done.is_set():
        time.sleep(0.0005)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    worker.join()
    # Holding the GIL, each of the three runs would be one gap.
    assert len(gaps) > 10
    assert sorted(gaps)[len(gaps) // 2] < 0.05


def test_sinks(tmp_path: pathlib.Path) -> None:
    memory = _core.MemorySink()
    with pytest.raises(KeyError):
        memory.mean("research_attention_density")
    log = _core.JsonlSink(str(tmp_path / "log.jsonl"))
    for sink in (memory, log):
        sequence = _core.Sequence(_core.HostAttention(PIPELINE), sink)
        attend(sequence.handle)
        attend(sequence.handle)
    assert memory.mean("research_attention_density") == 0.25
    log.flush()
    log.close()
    read = _core.read_metric_log(str(tmp_path / "log.jsonl"))
    kept = memory.records()
    assert [(r["metric"], r["value"], r["head"]) for r in read] == [(r["metric"], r["value"], r["head"]) for r in kept]
    assert {"research_attention_density", "research_attention_output_error"} <= set(_core.metrics())
    memory.clear()
    assert memory.records() == []
    with pytest.raises(KeyError):
        _core.read_metric_log(str(tmp_path / "other.jsonl"))


def test_another_torch_is_refused() -> None:
    text = "import torch; torch.__version__ = '9.9.0+cpu'; import sparse_attention_hub"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 1
    assert "is for torch " in done.stderr and "found torch 9.9.0+cpu" in done.stderr
    assert torch.__version__.startswith(".".join(_core.torch_version.split(".")[:2]))


def test_crc32c() -> None:
    assert _core.crc32c(b"123456789") == 0xE3069283
