"""The model class "sah" of lm-eval: its Hugging Face model with sparse attention.

    python -m sparse_attention_hub.lm_eval_model --model sah \\
        --model_args pretrained=MODEL_DIR,config=vattention.json --tasks ruler ...

takes every argument of `lm-eval` (0.4.9 or later). Of `--model_args`, `config` (a pipeline's file) and `prefill` ("dense",
the default, or "sparse") are ours, the rest those of lm-eval's model "hf".

Tasks that compare log-likelihoods (most multiple-choice tasks) only read a prompt and generate nothing. With a dense
prefill sparse attention has no part in them and their scores are those of the dense model; a warning says so.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from . import _core
from .transformers import sparse

_log = logging.getLogger(__name__)


@register_model("sah")
class SparseAttentionLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model whose attention goes through a pipeline.

    Args:
        config: The pipeline's path, JSON text, dictionary or config object; None: dense attention.
        prefill: How prompts attend, "dense" or "sparse".
        **kwargs: Those of `HFLM`.

    Raises:
        ValueError: The pipeline is wrong.
        RuntimeError: The model does not go through the attention interface of transformers.
    """

    def __init__(self, config: Any = None, prefill: str = "dense", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pipeline = config
        self._prefill: Any = prefill
        self._warned = False
        #: Density and rows read of every sparse step so far.
        self.metrics = _core.MemorySink()
        with self._sparse(check=True):  # whatever is wrong is said before the tasks begin
            pass

    def _sparse(self, check: bool = False) -> Any:
        return sparse(self.model, self._pipeline, prefill=self._prefill, metrics=self.metrics, check=check)

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._sparse():
            return super()._model_generate(*args, **kwargs)

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._prefill == "dense" and not self._warned:
            self._warned = True
            _log.warning(
                "log-likelihood tasks only read prompts, which are dense here: their scores are the dense model's, "
                "whatever the pipeline. Take tasks that generate, or prefill=sparse."
            )
        with self._sparse():
            return super()._model_call(*args, **kwargs)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval's record of the model, with the pipeline and what its sparse steps read."""
        info: dict[str, Any] = dict(super().get_model_info())
        info["sparse_attention"] = str(self._pipeline)
        for metric in ("research_attention_density", "kv_rows_fraction"):
            try:
                info[metric] = self.metrics.mean(metric)
            except KeyError:  # nothing was sparse
                continue
        return info


def main() -> None:
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
