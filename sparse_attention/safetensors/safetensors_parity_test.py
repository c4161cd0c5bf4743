"""The C++ safetensors reader and writer against the reference implementation, the safetensors wheel.

Every hand-made case and thousands of mutated files get the same verdict and the same tensors from both, except for
the kinds of files that safetensors.h says are refused on purpose.
"""

import ctypes
import json
import os
import random
import re
import struct
import subprocess

import pytest
import safetensors

PROGRAM = os.path.abspath(os.environ["SA_SAFETENSORS_VERDICTS"])
MUTATIONS = 3000

# The messages of the exceptions listed in safetensors.h.
STRICTER = re.compile(
    r"header must begin with '\{'"
    r'|duplicate key "'
    r"|must be below 2\^63"
    r"|must be an object, got an array"
    r"|dtype must be a string, got an object"
)


def ours(files):
    stream = b"".join(struct.pack("<Q", len(f)) + f for f in files)
    run = subprocess.run([PROGRAM, "check"], input=stream, capture_output=True, check=True)
    verdicts = [json.loads(line) for line in run.stdout.decode().splitlines()]
    assert len(verdicts) == len(files)
    return verdicts


def reference(file):
    """{name: [dtype, shape, data in hex]}, or None for a file that the wheel refuses."""
    try:
        tensors = safetensors.deserialize(file)
    except BaseException as error:  # a panic of the Rust code is not an Exception
        assert "safetensor" in type(error).__name__.lower() or "Panic" in type(error).__name__, repr(error)
        return None
    return {name: [t["dtype"], t["shape"], bytes(t["data"]).hex()] for name, t in tensors}


def corpus():
    run = subprocess.run([PROGRAM, "corpus"], capture_output=True, check=True)
    return [json.loads(line) for line in run.stdout.decode().splitlines()]


SPEC_NAMES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "U8": "uint8",
    "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64",
    "BOOL": "bool",
}  # fmt: skip
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4,
         "I64": 8, "U64": 8, "BOOL": 1}  # fmt: skip


def write(tensors, metadata=None):
    """The reference's file of {name: (dtype, shape, data)}."""
    buffers = {name: ctypes.create_string_buffer(data, len(data)) for name, (_, _, data) in tensors.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype=SPEC_NAMES[dtype], shape=shape, data_ptr=ctypes.addressof(buffers[name]), data_len=len(data)
        )
        for name, (dtype, shape, data) in tensors.items()
    }
    return bytes(safetensors.serialize(specs, metadata))


def random_tensors(rng):
    tensors = {}
    for _ in range(rng.randrange(0, 7)):
        name = rng.choice(["model.layers.%d.weight", "é%d", "x%d", 'q"\n%d', ""])
        name = name % rng.randrange(12) if "%d" in name else name
        dtype = rng.choice(sorted(SIZES))
        shape = [rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.randrange(4))]
        count = 1
        for n in shape:
            count *= n
        tensors[name] = (dtype, shape, rng.randbytes(count * SIZES[dtype]))
    return tensors


def mutate(rng, file):
    """A file one or a few steps away from valid: in the JSON, in its structure, or in the bytes."""
    length = struct.unpack("<Q", file[:8])[0]
    header, data = bytearray(file[8 : 8 + length]), bytearray(file[8 + length :])
    fix_length = rng.random() < 0.8
    for _ in range(rng.randrange(1, 3)):
        kind = rng.choice([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 8, 8])
        at = rng.randrange(len(header)) if header else 0
        digits = [m.span() for m in re.finditer(rb"\d+", header)]
        if kind == 0 and header:
            header[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and header:
            header[at] = rng.choice(b'{}[]:,"\\ \n\t0123456789-.eE\x00\xff')
        elif kind == 2 and header:
            del header[at : at + rng.randrange(1, 12)]
        elif kind == 3:
            header[at:at] = rng.choice(
                [b" ", b"\n", b"0", b"1", b",", b"null", b"[]", b"{}", b'"x":1,', b"\\u0000", b"\xc3\xa9", b"-", b"1e5",
                 b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', b'"__metadata__":{"k":"v"},']  # fmt: skip
            )
        elif kind in (4, 5) and digits:
            begin, end = rng.choice(digits)
            value = int(header[begin:end])
            header[begin:end] = str(
                rng.choice([value + 1, max(value - 1, 0), 0, value * 2, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64])
            ).encode()
        elif kind == 6:
            names = sorted(SIZES) + ["F4", "F6_E2M3", "F8_E4M3", "F8_E5M2FNUZ", "C64", "I4", "u8"]
            found = [m.span(1) for m in re.finditer(rb'"dtype":"(\w+)"', header)]
            if found:
                begin, end = rng.choice(found)
                header[begin:end] = rng.choice(names).encode()
        elif kind == 7:
            data = rng.choice([data[:-1], data + b"x", data[1:], b"", data + data])
        elif kind == 8:
            try:  # a valid header in another form: order, spaces, extra fields
                entries = list(json.loads(bytes(header)).items())
            except (ValueError, AttributeError, RecursionError):
                continue
            rng.shuffle(entries)
            for _, entry in entries:
                if rng.random() < 0.3 and isinstance(entry, dict) and "dtype" in entry:
                    entry["extra"] = rng.choice([1, None, [1, {"a": []}], "x", 1.5])
            separators = rng.choice([(",", ":"), (", ", ": ")])
            header = bytearray(json.dumps(dict(entries), separators=separators, ensure_ascii=rng.random() < 0.5).encode())
    if fix_length:
        length = len(header)
    elif rng.random() < 0.2:
        length = rng.choice([0, 1, length + 1, max(length - 1, 0), 10**8, 10**8 + 1, 2**64 - 1])
    file = struct.pack("<Q", length) + bytes(header) + bytes(data)
    return file[: rng.randrange(len(file) + 1)] if rng.random() < 0.05 else file


def compare(file, got):
    """'both accept', 'both refuse' or 'stricter'; anything else is a disagreement."""
    expected = reference(file)
    if expected is None:
        assert "error" in got, file
        return "both refuse"
    if "error" in got:
        assert STRICTER.search(got["error"]), (file, got)
        return "stricter"
    assert got["tensors"] == expected, file
    return "both accept"


def test_corpus():
    cases = corpus()
    files = [bytes.fromhex(c["hex"]) for c in cases]
    outcomes = {"accept": "both accept", "reject": "both refuse", "stricter": "stricter"}
    wrong = [
        (c["name"], c["verdict"], compare(f, got))
        for c, f, got in zip(cases, files, ours(files))
        if compare(f, got) != outcomes[c["verdict"]]
    ]
    assert not wrong
    assert len(cases) >= 250


@pytest.mark.parametrize("seed", range(3))
def test_mutations(seed):
    rng = random.Random(seed)
    files = [mutate(rng, write(random_tensors(rng), rng.choice([None, {"format": "pt"}]))) for _ in range(MUTATIONS // 3)]
    outcomes = [compare(file, got) for file, got in zip(files, ours(files))]
    counts = {kind: outcomes.count(kind) for kind in set(outcomes)}
    print(counts)
    assert counts["both accept"] >= 200 and counts["both refuse"] >= 300, counts
    assert counts.get("stricter", 0) <= 60, counts


def test_writer_gives_the_references_bytes():
    rng = random.Random(7)
    contents = [(random_tensors(rng), rng.choice([None, {"format": "pt"}])) for _ in range(300)]
    files = [write(*content) for content in contents]
    for file, got in zip(files, ours(files)):
        assert bytes.fromhex(got["again"]) == file
