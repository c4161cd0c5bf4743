"""Draws what decoding steps cost: against the length of the context, and against the bytes that they must read.

    bazel run //benchmarks:decode -- --keys 1024,4096,16384,65536,262144 --json /tmp/decode.json
    $(./tools/dev python-path) tools/plot_decode.py /tmp/decode.json docs/decode.svg
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import vl_convert

# Names of the benchmark's steps and what the picture calls them, in the order of the legend.
STEPS = {
    "dense": "dense",
    "oracle top-k 0.1, kv_group": "oracle top-k 10 %",
    "Quest 0.1, kv_group": "Quest 10 %",
    "HashAttention 0.1, kv_group": "HashAttention 10 %",
    "HashAttention 0.02, kv_group": "HashAttention 2 %",
    "vAttention on HashAttention 0.02, kv_group": "vAttention on HashAttention 2 %",
}
TORCH = "LibTorch, dense"
COLOURS = ["#7f7f7f", "#000000", "#9467bd", "#2ca02c", "#ff7f0e", "#d62728", "#1f77b4"]


def points(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point a step and length; LibTorch's dense product, which every record names, once a length."""
    found = []
    for record in records:
        kv_bytes, keys = record["kv_bytes"], record["keys"]
        if record["name"] in STEPS:
            megabytes = record["bytes_read"] * 1e-6
            found.append({"step": STEPS[record["name"]], "keys": keys, "ms": record["median_ms"], "mb": megabytes})
        if record["name"] == "dense":
            found.append({"step": TORCH, "keys": keys, "ms": record["torch_ms"], "mb": kv_bytes * 1e-6})
    return found


def ceiling(records: list[dict[str, Any]], of: str, gigabytes: float, least_mb: float) -> list[dict[str, Any]]:
    """The time of bytes at a bandwidth, from `least_mb` to the longest row."""
    most_mb = max(record["kv_bytes"] for record in records) * 1e-6
    return [{"ceiling": f"{of}, {gigabytes:.0f} GB/s", "mb": mb, "ms": mb / gigabytes} for mb in (least_mb, most_mb)]


def figure(records: list[dict[str, Any]]) -> dict[str, Any]:
    """A Vega-Lite specification of both panels."""
    data = points(records)
    longest = max(records, key=lambda record: record["keys"])
    least = min(point["mb"] for point in data)
    stream = longest["kv_bytes"] * 1e-6 / longest["stream_read_ms"]
    ceilings = ceiling(records, "stream", stream, least)
    ceilings += ceiling(records, "gather of rows", longest["gather_gb_s"]["random rows, 10 %"], least)
    names = [TORCH, *STEPS.values()]
    colour = {
        "field": "step",
        "type": "nominal",
        "title": None,
        "scale": {"domain": names, "range": COLOURS},
        "sort": names,
    }
    time = {"field": "ms", "type": "quantitative", "scale": {"type": "log"}, "title": "milliseconds a step and layer"}
    by_length = {
        "width": 330,
        "height": 300,
        "title": "Time against length",
        "data": {"values": data},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {
                "field": "keys",
                "type": "quantitative",
                "scale": {"type": "log", "base": 2},
                "title": "keys",
                "axis": {
                    "values": sorted({point["keys"] for point in data}),
                    "labelExpr": "datum.value < 1024 ? datum.value : format(datum.value / 1024, '~r') + 'K'",
                },
            },
            "y": time,
            "color": colour,
        },
    }
    by_bytes = {
        "width": 330,
        "height": 300,
        "title": "Time against bytes that must be read",
        "layer": [
            {
                "data": {"values": ceilings},
                "mark": {"type": "line", "color": "#888"},
                "encoding": {
                    "x": {"field": "mb", "type": "quantitative"},
                    "y": time,
                    "strokeDash": {"field": "ceiling", "type": "nominal", "title": "memory of the machine"},
                },
            },
            {
                "data": {"values": data},
                "mark": {"type": "point", "filled": True, "size": 45},
                "encoding": {
                    "x": {
                        "field": "mb",
                        "type": "quantitative",
                        "scale": {"type": "log"},
                        "title": "megabytes of keys, values and index",
                    },
                    "y": time,
                    "color": colour,
                },
            },
        ],
    }
    shape = f"32/8 heads, dim 128, bfloat16, batch {longest['batch']}, one query"
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "title": {"text": f"{shape}, {longest['threads']} threads, {longest['isa']}", "fontSize": 12},
        "hconcat": [by_length, by_bytes],
        "config": {"font": "sans-serif", "axis": {"gridOpacity": 0.4}},
    }


def main() -> None:
    """Reads records and writes the picture; its suffix says whether as SVG or PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=pathlib.Path, help="what //benchmarks:decode wrote with --json")
    parser.add_argument("picture", type=pathlib.Path, help="a file that ends in .svg or .png")
    arguments = parser.parse_args()
    spec = figure(json.loads(arguments.records.read_text()))
    if arguments.picture.suffix == ".png":
        arguments.picture.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
    elif arguments.picture.suffix == ".svg":
        arguments.picture.write_text(vl_convert.vegalite_to_svg(spec))
    else:
        parser.error(f"picture must end in .svg or .png, got {arguments.picture}")


if __name__ == "__main__":
    main()
