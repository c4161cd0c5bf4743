"""Pipelines from whatever a user holds: a file, a dictionary, JSON text, or a config object."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Mapping, Union, cast

from . import _core

if TYPE_CHECKING:
    from .sparse_attention.base import SparseAttentionConfig

#: A path to a JSON file, JSON text (it begins with "{"), a dictionary, a config object, or None for dense attention.
PipelineSource = Union[str, "os.PathLike[str]", Mapping[str, Any], "SparseAttentionConfig", None]

DENSE = '{"type": "research", "maskers": []}'


def pipeline_json(source: PipelineSource, model_folder: str = "") -> str:
    """The checked pipeline of `source` as JSON text.

    Args:
        source: Where the pipeline comes from. Configs dumped by the Python hub are read too.
        model_folder: What "{model}/" at the beginning of a masker's text fields stands for.

    Raises:
        ValueError: An entry is wrong; the message begins with its path.
        KeyError: There is no such file (`_core.NotFoundError`).
        TypeError: `source` is of another kind.
    """
    if source is None:
        return DENSE
    if isinstance(source, Mapping):
        text = json.dumps(source)
    elif isinstance(source, str) and source.lstrip().startswith("{"):
        text = source
    elif isinstance(source, (str, os.PathLike)):
        return _core.read_pipeline_file(os.fspath(source), model_folder)
    elif hasattr(source, "masker_configs"):
        from .sparse_attention.research_attention.base import pipeline_of_config

        text = json.dumps(pipeline_of_config(cast(Any, source)))
    elif hasattr(source, "to_entry"):
        text = json.dumps(source.to_entry())
    else:
        raise TypeError(
            "a pipeline is a path, JSON text, a dictionary, a config of research or efficient attention, or None, "
            f"got {type(source).__name__}"
        )
    return _core.read_pipeline(text, model_folder)
