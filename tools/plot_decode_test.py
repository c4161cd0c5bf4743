"""Tests of plot_decode.py."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import plot_decode


def record(name, keys, ms, rows=1.0, index=0.0):
    kv_bytes = keys * 8 * 128 * 4
    return {"name": name, "keys": keys, "batch": 1, "threads": 2, "isa": "avx2", "median_ms": ms, "kv_bytes": kv_bytes,
            "bytes_read": (rows + index) * kv_bytes, "stream_read_ms": kv_bytes / 40e6,
            "torch_ms": 3 * ms, "gather_gb_s": {"random rows, 10 %": 20.0}}


RECORDS = [record("dense", 1000, 1.0), record("Quest 0.1, kv_group", 1000, 0.25, rows=0.1, index=0.05),
           record("a step that no picture shows", 1000, 7.0), record("dense", 2000, 2.0)]


class PlotDecodeTest(unittest.TestCase):
    def test_points_have_the_bytes_that_the_step_reads(self):
        found = {(point["step"], point["keys"]): point for point in plot_decode.points(RECORDS)}
        self.assertEqual(set(found), {("dense", 1000), ("dense", 2000), ("LibTorch, dense", 1000),
                                      ("LibTorch, dense", 2000), ("Quest 10 %", 1000)})
        self.assertAlmostEqual(found["Quest 10 %", 1000]["mb"], 0.15 * 4.096)
        self.assertAlmostEqual(found["Quest 10 %", 1000]["ms"], 0.25)
        self.assertAlmostEqual(found["LibTorch, dense", 2000]["ms"], 6.0)
        self.assertAlmostEqual(found["LibTorch, dense", 2000]["mb"], 8.192)

    def test_ceilings_are_bytes_over_bandwidth(self):
        layers = plot_decode.figure(RECORDS)["hconcat"][1]["layer"][0]["data"]["values"]
        for point in layers:
            self.assertAlmostEqual(point["ms"], point["mb"] / (40.0 if "stream" in point["ceiling"] else 20.0))
        self.assertEqual(max(point["mb"] for point in layers), 8.192)

    def test_writes_a_picture_with_every_step(self):
        with tempfile.TemporaryDirectory() as folder:
            records, picture = pathlib.Path(folder, "r.json"), pathlib.Path(folder, "p.svg")
            records.write_text(json.dumps(RECORDS))
            subprocess.run([sys.executable, plot_decode.__file__, records, picture], check=True)
            text = picture.read_text()
            for name in ("Quest 10 %", "LibTorch, dense", "stream, 40 GB/s", "gather of rows, 20 GB/s"):
                self.assertIn(name, text)
            other = subprocess.run([sys.executable, plot_decode.__file__, records, "p.pdf"], capture_output=True, text=True)
            self.assertEqual(other.returncode, 2)
            self.assertIn("must end in .svg or .png, got p.pdf", other.stderr)


if __name__ == "__main__":
    unittest.main()
