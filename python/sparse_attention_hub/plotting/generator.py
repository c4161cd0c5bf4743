"""`PlotGenerator`: where plots are stored and which arguments they take.

The arguments are those of the Python hub and are checked as there. Drawing needs the plotting
library of this project, which does not exist yet: the calls that draw say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn

from .granularity import Granularity


class PlotGenerator:
    """Draws plots into a folder.

    Attributes:
        storage_path: the folder.
    """

    def __init__(self, storage_path: str = "./plots") -> None:
        """Creates the folder.

        Args:
            storage_path: where plots go.

        Raises:
            OSError: the folder cannot be created.
        """
        self.set_storage_path(storage_path)

    def set_storage_path(self, path: str) -> None:
        """Sends later plots to another folder, and creates it.

        Raises:
            OSError: the folder cannot be created.
        """
        os.makedirs(path, exist_ok=True)
        self.storage_path = path

    def generate_plot(
        self,
        granularity: Granularity,
        data: Mapping[str, Any] | None = None,
        plot_type: str = "default",
        **kwargs: Any,
    ) -> str:
        """Draws attention weights by position, or the attention matrix of a head as a heat map.

        Args:
            granularity: PER_HEAD for the heat map.
            data: for PER_HEAD `attention_matrix` [queries, keys].
            plot_type: not used.
            **kwargs: not used.

        Returns:
            The path of the file.

        Raises:
            ValueError: not a granularity, or no `attention_matrix`.
            NotImplementedError: always, for arguments that are right.
        """
        _check_granularity(granularity)
        per_head = granularity is Granularity.PER_HEAD
        if per_head and data is not None and "attention_matrix" not in data:
            names = ", ".join(map(str, data)) or "nothing"
            raise ValueError(f"attention_matrix required in data for heatmap, got {names}")
        _cannot_draw("generate_plot")

    def generate_comparison_plot(
        self, data_dict: Mapping[str, Any], granularity: Granularity
    ) -> str:
        """Draws several measurements side by side.

        Args:
            data_dict: name to data.
            granularity: what one point stands for.

        Returns:
            The path of the file.

        Raises:
            ValueError: not a granularity.
            NotImplementedError: always, for arguments that are right.
        """
        _check_granularity(granularity)
        _cannot_draw("generate_comparison_plot")


def _check_granularity(granularity: object) -> None:
    if not isinstance(granularity, Granularity):
        names = ", ".join(map(repr, Granularity))
        raise ValueError(f"Unsupported granularity: {granularity!r} (one of {names})")


def _cannot_draw(call: str) -> NoReturn:
    raise NotImplementedError(
        f"PlotGenerator.{call} does not draw yet: the plotting library of this project is still "
        "to come"
    )
