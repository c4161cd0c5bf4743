"""The program runs its masker by name, at the density asked for, and better than a window of the same size."""

import os
import re
import subprocess


def test_runs_its_masker_from_json():
    result = subprocess.run([os.environ["SA_OUT_OF_TREE_MASKER"]], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = {name: tuple(map(float, numbers)) for *numbers, name in re.findall(
        r'density (\S+), index read (\S+), output error (\S+): {"type": "(\w+)"', result.stdout)}
    assert list(rows) == ["oracle_top_k", "my_low_norm_keys", "local"]
    assert all(0.045 < density < 0.052 for density, _, _ in rows.values())
    # 4 bytes beside 512 of K and V, a key.
    assert rows["my_low_norm_keys"][1] == 0.008 and rows["local"][1] == 0
    errors = [error for _, _, error in rows.values()]
    assert 0.01 < errors[0] < errors[1] < 0.8 * errors[2]
