#!/usr/bin/env python3
"""What every masker keeps and loses at equal densities, alone and with vAttention on top.

  method_table.py --sah bazel-bin/tools/sah/sah --model models/retrieval-6m --out results/methods \
      [--densities 2,5,10,20] [--contexts 4096,16384] [--tasks ...] [--samples 8] [--device cuda] [--jobs 8]

Writes the configs, runs `sah evaluate` on each in several processes, and prints Markdown tables: a row
a method, a column a density; accuracy over all tasks, mean output error, KV rows read, index bytes.
A density is that of a query head: sink and window of 32 keys each are part of it. "v." rows are
vAttention on the method: half of the density by the method, and a sample sized by epsilon = delta =
0.2 of at least a quarter of it. A second table compares them at equal KV rows read. A run that was
interrupted goes on where it stopped if it is started again with the same --out.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys

SINK = WINDOW = 32
MODEL = "{model}/"  # resolved by sah

# (name in tables, masker without its budget). Several entries of one group are the same method.
TOP_K = {
    "oracle top-k": {"type": "oracle_top_k"},
    "HashAttention": {"type": "hash_attention_top_k",
                      "hat_weight_file": MODEL + "hash_attention.safetensors"},
    "Double Sparsity": {"type": "double_sparsity_top_k", "group_factor": 4, "label_bits": 4,
                        "sorted_channel_file": MODEL + "double_sparsity.json"},
    "PQCache": {"type": "pq_cache", "pq_group_factor": 4, "pq_bits": 6, "kmeans_iter": 10,
                "init_offset": SINK, "metric": "euclidean"},
    "Quest": {"type": "quest_top_k", "page_size": 16},
    "Socket": {"type": "socket_top_k", "K": 8, "L": 60, "tau": 0.3},
    "SnapKV": {"type": "snap_kv", "window_size": 16, "kernel_size": 5},
    "lightning indexer": {"type": "lightning_indexer",
                          "weight_file": MODEL + "lightning_indexer.safetensors"},
}
# Tables and planes that draw about the density on this model's keys.
MAGIC_PIG = {0.02: (20, 12), 0.05: (20, 10), 0.1: (24, 9), 0.2: (24, 8)}
EPSILON = DELTA = 0.2


def pipelines(context, densities):
    """(row, density, pipeline) of every config at a context."""
    around = [{"type": "sink", "sink_size": SINK}, {"type": "local", "window_size": WINDOW}]

    def pipeline(*maskers):
        return {"type": "research", "maskers": around + list(maskers)}

    yield "dense", 1.0, {"type": "research", "maskers": []}
    for density in densities:
        budget = max(16, round(density * context) - SINK - WINDOW)
        for name, masker in TOP_K.items():
            yield name, density, pipeline(dict(masker, heavy_size=budget))
            sampler = {"type": "adaptive_sampling", "base_rate_sampling": density / 4,
                       "epsilon": EPSILON, "delta": DELTA, "init_offset": SINK,
                       "local_offset": WINDOW}
            half = max(16, round(density * context / 2) - SINK - WINDOW)
            yield "v. " + name, density, pipeline(dict(masker, heavy_size=half), sampler)
        yield "random", density, pipeline({"type": "random_sampling",
                                           "sampling_rate": budget / context})
        tables, planes = MAGIC_PIG.get(density, (24, 9))
        yield "MagicPIG", density, pipeline({"type": "magic_pig", "lsh_l": tables, "lsh_k": planes})


def evaluate(args, context, row, entries):
    """One `sah evaluate` of a row's configs, [(density, pipeline)], which share each sample's prefill:
    {(row, density, context): cells}."""
    names = {}
    command = [args.sah, "evaluate", "--model", args.model, "--tasks", args.tasks,
               "--context", str(context), "--samples", str(args.samples), "--seed", str(args.seed),
               "--device", args.device]
    folder = args.out / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    for density, pipeline in entries:
        name = f"{row} {density:g} {context}".replace(" ", "_").replace(".", "_")
        names[name] = (row, density, context)
        (folder / f"{name}.json").write_text(json.dumps(pipeline, indent=2) + "\n")
        command += ["--config", str(folder / f"{name}.json")]
    out = args.out / "cells" / f"{row} {context}".replace(" ", "_").replace(".", "_")
    command += ["--out", str(out), "--resume"]
    environment = dict(os.environ, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    cells = {}
    for cell in json.loads((out / "results.json").read_text()):
        cells.setdefault(names[cell["config"]], []).append(cell)
    return cells


def mean(cells, key):
    values = [cell[key] for cell in cells]
    return sum(values) / len(values)


def summary(cells):
    return {"accuracy": mean(cells, "accuracy"), "error": mean(cells, "output_error_mean"),
            "kv": mean(cells, "kv_bytes_fraction"), "index": mean(cells, "index_bytes_fraction"),
            "density": mean(cells, "density")}


def error_at(points, kv):
    """The error of a method at a share of KV rows read, between its measured points on log axes;
    None outside of them."""
    points = sorted((p["kv"], p["error"]) for p in points)
    for (kv0, error0), (kv1, error1) in zip(points, points[1:]):
        if kv0 <= kv <= kv1 and kv0 < kv1 and error0 > 0 and error1 > 0:
            share = math.log(kv / kv0) / math.log(kv1 / kv0)
            return math.exp(math.log(error0) * (1 - share) + math.log(error1) * share)
    return None


def print_tables(results, contexts, densities):
    """results: (row, density, context) -> summary."""
    rows = list(dict.fromkeys(row for row, _, _ in pipelines(contexts[0], densities)
                              if row != "dense"))
    for context in contexts:
        dense = results[("dense", 1.0, context)]
        print(f"\n**{context:,} tokens** (dense: accuracy {dense['accuracy']:.2f}). Accuracy / output "
              "error / KV read, by density:\n")
        print("| method | index read | " + " | ".join(f"{d:.0%}" for d in densities) + " |")
        print("| --- | --- |" + " --- |" * len(densities))
        for row in rows:
            cells = [results[(row, d, context)] for d in densities]
            text = " | ".join(f"{c['accuracy']:.2f} / {c['error']:.3f} / {c['kv']:.0%}" for c in cells)
            print(f"| {row} | {cells[0]['index']:.1%} | {text} |")
    print("\nvAttention on a method against the method alone at equal KV rows read (output error, "
          "interpolated on log axes):\n")
    print("| method | context | KV read | alone | v. |")
    print("| --- | --- | --- | --- | --- |")
    for row in TOP_K:
        for context in contexts:
            alone = [results[(row, d, context)] for d in densities]
            for d in densities:
                v = results[("v. " + row, d, context)]
                error = error_at(alone, v["kv"])
                if error is not None:
                    print(f"| {row} | {context:,} | {v['kv']:.0%} | {error:.3f} | {v['error']:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sah", required=True)
    parser.add_argument("--model", default="models/retrieval-6m")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--densities", default="2,5,10,20", help="per cent")
    parser.add_argument("--contexts", default="4096,16384")
    parser.add_argument("--tasks", default="niah_multikey,variable_tracking,common_words")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    densities = [float(d) / 100 for d in args.densities.split(",")]
    contexts = [int(c) for c in args.contexts.split(",")]
    jobs = {}
    for context in contexts:
        for row, density, pipeline in pipelines(context, densities):
            jobs.setdefault((context, row), []).append((density, pipeline))
    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        # The longest first, so that no core waits for them at the end.
        running = [pool.submit(evaluate, args, context, row, entries)
                   for (context, row), entries in sorted(jobs.items(), reverse=True)]
        for done, job in enumerate(concurrent.futures.as_completed(running), 1):
            cells = job.result()
            results.update({place: summary(of_place) for place, of_place in cells.items()})
            print(f"{done} of {len(running)}: {next(iter(cells))}", file=sys.stderr, flush=True)
    (args.out / "summary.json").write_text(json.dumps(
        [dict(row=r, asked_density=d, context=c, **s) for (r, d, c), s in sorted(results.items())],
        indent=1) + "\n")
    print_tables(results, contexts, densities)


if __name__ == "__main__":
    main()
