"""What an adapter takes, returns and must implement.

An adapter owns a model and, unless it is dense only, the attention object that replaces the
model's attention inside `enable_sparse_mode()`. The names are the Python hub's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..sparse_attention.base import SparseAttention, SparseAttentionConfig


@dataclass
class Request:
    """Questions about one context. Nothing is checked.

    Attributes:
        context: the text that all questions share.
        questions: one question, or a list of them.
        answer_prefix: text that every answer begins with; it is part of the prompt.
    """

    context: str
    questions: str | list[str]
    answer_prefix: str = ""


@dataclass
class RequestResponse:
    """The answers to a `Request`: one string for one question, a list in order for a list."""

    responses: str | list[str]


class ModelHubAdapterInterface(ABC):
    """What a source of models offers: answers to requests."""

    @abstractmethod
    def process_request(
        self,
        request: Request,
        generation_kwargs: dict[str, Any],
        request_kwargs: dict[str, Any],
    ) -> RequestResponse:
        """Answers every question of `request`.

        Args:
            request: the context and its questions.
            generation_kwargs: how to generate; `max_new_tokens` is a count of tokens.
            request_kwargs: how to treat the request; `max_context_length` is a count of tokens.

        Returns:
            One answer a question.
        """


class SparseAttentionAdapterInterface(ABC):
    """Connects an attention object with the attention interface of a model library."""

    @abstractmethod
    def get_custom_attention_function(
        self, sparse_attention: SparseAttention
    ) -> Callable[..., Any]:
        """The function that the model library calls instead of its own attention.

        Args:
            sparse_attention: the attention object that the function forwards to.

        Returns:
            A callable with the signature that the model library expects.
        """


class ModelAdapter(ModelHubAdapterInterface, SparseAttentionAdapterInterface, ABC):
    """Owns a model and its sparse attention. Dense until `enable_sparse_mode` is entered.

    Attributes:
        model_name: name or folder of the model.
        sparse_attention_config: None for dense only.
        kwargs: the other keyword arguments of the constructor.
        sparse_attention: built from the config; None for dense only.
    """

    def __init__(
        self,
        model_name: str,
        sparse_attention_config: SparseAttentionConfig | None,
        **kwargs: Any,
    ) -> None:
        """Builds the attention object.

        Args:
            model_name: name or folder of the model.
            sparse_attention_config: what to build; None for dense only.
            **kwargs: kept for subclasses.

        Raises:
            ValueError: from `SparseAttention.create_from_config`, for an unknown config.
        """
        self.model_name = model_name
        self.sparse_attention_config = sparse_attention_config
        self.kwargs = kwargs
        self.sparse_attention: SparseAttention | None = None
        if sparse_attention_config is not None:
            from ..sparse_attention.base import SparseAttention

            self.sparse_attention = SparseAttention.create_from_config(sparse_attention_config)

    @abstractmethod
    def enable_sparse_mode(self) -> AbstractContextManager[None]:
        """A context in which the model attends sparsely; on exit it is dense again.

        Raises:
            RuntimeError: the adapter is dense only.
        """
