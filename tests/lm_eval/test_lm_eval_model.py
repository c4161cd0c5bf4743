"""The model class "sah" of lm-eval, on the model that ships: run by tools/matrix_test.sh, which installs lm-eval."""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import sys

import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from sparse_attention_hub.lm_eval_model import SparseAttentionLM  # noqa: E402

MODEL = "models/retrieval-6m"
TEXT = pathlib.Path("evaluation/haystack/persuasion.txt").read_text(encoding="utf-8")[:6000]
PIPELINE = {
    "type": "research",
    "maskers": [{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16}],
}


def model(config: object, **options: object) -> SparseAttentionLM:
    return SparseAttentionLM(pretrained=MODEL, config=config, device="cpu", dtype="float32", batch_size=1, **options)


def generate(lm: SparseAttentionLM) -> list[str]:
    arguments = (TEXT, {"until": [], "max_gen_toks": 8, "do_sample": False})
    return lm.generate_until([Instance("generate_until", {}, arguments, 0)], disable_tqdm=True)


def test_it_is_registered() -> None:
    assert get_model("sah") is SparseAttentionLM


def test_generation_is_sparse_and_measured() -> None:
    dense, sparse = model(None), model(PIPELINE)
    assert generate(dense) == generate(get_model("hf")(pretrained=MODEL, device="cpu", dtype="float32"))
    assert generate(sparse) != generate(dense)  # 20 keys of 2,000 are not enough
    info = sparse.get_model_info()
    assert 0 < info["research_attention_density"] < 0.05
    assert info["sparse_attention"] == str(PIPELINE)


def test_log_likelihoods_of_dense_prompts_are_the_dense_models(caplog: pytest.LogCaptureFixture) -> None:
    request = [Instance("loglikelihood", {}, (TEXT, " And then"), 0)]
    dense = get_model("hf")(pretrained=MODEL, device="cpu", dtype="float32").loglikelihood(request, disable_tqdm=True)
    with caplog.at_level(logging.WARNING):
        ours = model(PIPELINE).loglikelihood(request, disable_tqdm=True)
    assert ours[0][0] == pytest.approx(dense[0][0], abs=1e-3)
    assert "log-likelihood tasks only read prompts" in caplog.text
    sparse = model(PIPELINE, prefill="sparse").loglikelihood(request, disable_tqdm=True)
    assert abs(sparse[0][0] - dense[0][0]) > 0.1


def test_a_wrong_pipeline_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="sink_size"):
        model({"type": "research", "maskers": [{"type": "sink", "sink_size": 0}]})


def test_the_command(tmp_path: pathlib.Path) -> None:
    task = tmp_path / "recite.yaml"
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": TEXT, "answer": "x"}) + "\n")
    task.write_text(
        f"""
task: recite
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "data.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_gen_toks: 4, until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    pipeline = tmp_path / "pipeline.json"
    pipeline.write_text(json.dumps(PIPELINE))
    done = subprocess.run(
        [sys.executable, "-m", "sparse_attention_hub.lm_eval_model", "--model", "sah", "--model_args",
         f"pretrained={MODEL},config={pipeline},dtype=float32", "--tasks", "recite", "--include_path", str(tmp_path),
         "--device", "cpu", "--batch_size", "1", "--output_path", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "recite" in done.stdout
