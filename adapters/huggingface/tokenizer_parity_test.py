"""The C++ tokenizer against the `tokenizers` wheel: the same ids and the same decoded text, text by text.

The texts are lines of installed files, character names and random code points of all planes. The tokenizers are the
shipped model's, and some that the wheel trains here with the split patterns of well-known models.
"""

import functools
import itertools
import json
import os
import pathlib
import random
import struct
import subprocess
import sysconfig
import unicodedata

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PROGRAM = os.path.abspath(os.environ["SA_TOKENIZER_DUMP"])

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
GPT_OSS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
PUNCTUATED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def file_lines():
    """Lines with their ends, from sources and licences that every machine with the test has."""
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    stdlib = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = sorted(pathlib.Path("/usr/share/common-licenses").glob("*"))
    files += sorted(stdlib.glob("*.py")) + sorted(stdlib.glob("encodings/*.py"))
    for package in ("torch/nn", "torch/distributed", "transformers/generation"):
        files += sorted((packages / package).rglob("*.py"))
    lines = []
    for file in files:
        lines += file.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True)
    assert len(lines) > 100_000
    return lines


def random_code_point(rng):
    while True:
        limit = rng.choice((0x80, 0x250, 0x3100, 0x10000, 0x20000, 0x110000))
        code_point = rng.randrange(limit)
        if not 0xD800 <= code_point < 0xE000:
            return chr(code_point)


def random_text(rng):
    pieces = []
    for _ in range(rng.randrange(1, 9)):
        kind = rng.randrange(12)
        if kind == 0:
            pieces.append("".join(random_code_point(rng) for _ in range(rng.randrange(1, 20))))
        elif kind == 1:  # combining marks, in any order
            marks = rng.choices(range(0x300, 0x370), k=rng.randrange(1, 5)) + [rng.randrange(0x591, 0x8FF)]
            rng.shuffle(marks)
            pieces.append(rng.choice("aeiouAEIOUn가ㄱक") + "".join(map(chr, marks)))
        elif kind == 2:  # emoji: skin tones, joiners, flags, keycaps
            pieces.append(rng.choice(["👩🏽‍🚀", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "1️⃣", "🏳️‍🌈", "❤️", "☺", "\ufe0f", "\u200d", "🫨🪿"]))
        elif kind == 3:
            pieces.append(rng.choice(["\r\n", "\n", "\r", "\n\n\n", "\r\n \r\n", "\x85", "\u2028", "\x0b", "\x0c", "\x1c\x1f"]))
        elif kind == 4:
            pieces.append("".join(rng.choices("0123456789", k=rng.randrange(1, 30))))
        elif kind == 5:
            pieces.append("".join(rng.choices("٠١٢٣४५६៧八Ⅷ½²①𝟘𑱐", k=rng.randrange(1, 6))))
        elif kind == 6:
            pieces.append(rng.choice(" \t\u00a0\u3000\u200a\u180e\u200b") * rng.randrange(1, 40))
        elif kind == 7:
            pieces.append(rng.choice(["'s", "'LL", "'Ve", "don't", "I'M", "'ſ", "’s", "'", "''RE", "x'd"]))
        elif kind == 8:
            pieces.append("".join(rng.choices("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", k=rng.randrange(1, 12))))
        elif kind == 9:
            pieces.append(rng.choice(["<|begin_of_text|>", "<|eot|>", "<|eo", "<tool>", "  <tool>\n", "cafe\u0301", "word", "swords"]))
        elif kind == 10:  # conjoining Hangul, composed and decomposed letters
            pieces.append(unicodedata.normalize(rng.choice(["NFC", "NFD"]), rng.choice(["각힣한국어", "Ångström", "ấễở", "ώᾳ", "が ガ", "𑂚𑄮"])))
        else:
            pieces.append(rng.choice([" the", " of", "Hello", "naïve", " Straße", "ЖЁ", " привет", "世界", "こんにちは", "العربية", "हिन्दी", " _x"]))
    return "".join(pieces)


@functools.cache
def texts():
    """At least 100,000 different texts, most of them a line."""
    rng = random.Random(20)
    lines = file_lines()
    chosen = [line.rstrip("\n") for line in rng.sample(lines, 60_000)]
    for _ in range(500):  # whole passages, some with the line ends of other systems
        start = rng.randrange(len(lines))
        chosen.append("".join(lines[start : start + rng.randrange(2, 60)]).replace("\n", rng.choice(["\n", "\r\n", "\r"])))
    for code_point in rng.sample(range(0x110000), 110_000):
        if name := unicodedata.name(chr(code_point), None):
            chosen.append(f"{chr(code_point)} {name} {chr(code_point)}{name.title()}")
    chosen += [random_text(rng) for _ in range(54_000)]
    chosen += ["", " ", "\n", "a" * 20_000, " " * 20_000, "ab" * 5_000 + "\n" * 5_000]
    unique = list(dict.fromkeys(chosen))
    assert len(unique) >= 100_000
    return unique


def train(split, vocab_size, normalizer=None, special=(), byte_level=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    byte_level = byte_level or pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = [pre_tokenizers.Split(Regex(split), behavior="isolated")] if isinstance(split, str) else split
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = random.Random(7).sample(texts(), 10_000)
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def add_special_and_plain(tokenizer):
    tokenizer.add_special_tokens(["<|eot|>", AddedToken("<tool>", lstrip=True, rstrip=True, special=True)])
    tokenizer.add_tokens(
        [AddedToken("café"), AddedToken("word", single_word=True), AddedToken(" of", normalized=False), "<|eo", "世"]
    )
    return tokenizer


def shipped():
    return Tokenizer.from_file("models/retrieval-6m/tokenizer.json")


def llama_3_style():
    tokenizer = add_special_and_plain(train(LLAMA_3, 8000, ignore_merges=True))
    tokenizer.add_special_tokens(["<|begin_of_text|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A <|eot|>",
                special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<|begin_of_text|>", "<|eot|>")],
            ),
        ]
    )
    return tokenizer


def qwen_style():
    return add_special_and_plain(train(QWEN, 8000, normalizers.NFC()))


def gpt_2_style():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    return add_special_and_plain(train([pre_tokenizers.Digits(individual_digits=True)], 1500, byte_level=byte_level))


def several_splits():
    steps = [
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex(r"[\r\n]+"), behavior="merged_with_previous"),
        pre_tokenizers.Split(Regex(r"\p{Han}|\p{Lu}"), behavior="merged_with_next"),
        pre_tokenizers.Split("_", behavior="removed"),
        pre_tokenizers.Split(Regex(r"\p{^L}"), behavior="contiguous", invert=True),
        pre_tokenizers.Split(Regex(r"^a*|[\S]{,2}\u3042?"), behavior="isolated"),
    ]
    return train(steps, 1500)


def ignoring_merges():
    """Half of the merges are gone: many words are tokens that no merge makes."""
    file = json.loads(train(LLAMA_3, 1500, ignore_merges=True).to_str())
    del file["model"]["merges"][::2]
    return Tokenizer.from_str(json.dumps(file))


FULL = {"shipped": shipped, "llama_3_style": llama_3_style, "qwen_style": qwen_style}
PARTIAL = {
    "gpt_2_style": gpt_2_style,
    "gpt_oss_style": lambda: train(GPT_OSS, 1500),
    "possessive": lambda: train(POSSESSIVE, 1500),
    "punctuated": lambda: train(PUNCTUATED, 1500),
    "several_splits": several_splits,
    "ignoring_merges": ignoring_merges,
}


def ours(path, inputs, *arguments):
    """[(ids, decoded text)] of the C++ tokenizer."""
    encoded = [text.encode() for text in inputs]
    stream = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    run = subprocess.run([PROGRAM, path, *arguments], input=stream, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    print(f"{path.name} {' '.join(arguments)}: {len(inputs)} texts, {run.stderr.decode().strip()}")
    results, at, out = [], 0, run.stdout

    def take(size):
        nonlocal at
        at += size
        return out[at - size : at]

    for _ in inputs:
        (count,) = struct.unpack("<I", take(4))
        ids = list(struct.unpack(f"<{count}i", take(4 * count)))
        (length,) = struct.unpack("<I", take(4))
        results.append((ids, take(length).decode()))
    assert at == len(out)
    return results


def compare(tokenizer, path, inputs, add_special_tokens=False):
    tokenizer.save(str(path))
    mine = ours(path, inputs, *(["--special"] if add_special_tokens else []))
    expected = [e.ids for e in tokenizer.encode_batch_fast(inputs, add_special_tokens=add_special_tokens)]
    decoded = tokenizer.decode_batch(expected, skip_special_tokens=False)
    assert sum(map(len, expected)) > len(inputs)
    for text, (ids, back), theirs, theirs_back in zip(inputs, mine, expected, decoded, strict=True):
        if ids != theirs:
            at = next(i for i, (a, b) in enumerate(itertools.zip_longest(ids, theirs)) if a != b)
            shown = [[tokenizer.id_to_token(i) for i in side[at : at + 5]] for side in (ids, theirs)]
            pytest.fail(f"{text!r}: from token {at} on ours are {shown[0]}, theirs {shown[1]}")
        assert back == theirs_back, f"{text!r}, ids {ids}"


@pytest.mark.parametrize("name", FULL)
def test_all_texts(name, tmp_path):
    tokenizer = FULL[name]()
    compare(tokenizer, tmp_path / name, texts())
    compare(tokenizer, tmp_path / name, texts()[::50], add_special_tokens=True)


@pytest.mark.parametrize("name", PARTIAL)
def test_other_patterns(name, tmp_path):
    compare(PARTIAL[name](), tmp_path / name, texts()[::11])


def byte_tokenizer(split=None, normalizer=None):
    """One token a byte. What `split` matches is dropped."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = [split] if split is not None else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


# Planes 0 to 3 and 14: nothing is assigned in the others.
CODE_POINTS = [chr(c) for c in (*range(0x40000), *range(0xE0000, 0xF0000)) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize(
    "pattern",
    [r"\p{L}", r"\p{N}", r"\s", r"\S", r"[\p{M}\p{Z}]", r"[^\p{P}\p{S}]", r"[\p{Lu}\p{Mn}\p{So}]", r"\P{Han}", r"\D"],
)
def test_every_code_point_has_the_same_class(pattern, tmp_path):
    chunks = ["".join(CODE_POINTS[i : i + 256]) for i in range(0, len(CODE_POINTS), 256)]
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    tokenizer = byte_tokenizer(split)
    tokenizer.save(str(tmp_path / "t"))
    # Without merges, pieces are kept apart only by what is dropped: this compares the dropped sets.
    kept = [e.ids for e in tokenizer.encode_batch_fast(chunks)]
    assert [ids for ids, _ in ours(tmp_path / "t", chunks)] == kept


def test_every_digit_is_the_same(tmp_path):
    chunks = ["".join(CODE_POINTS[i : i + 256]) for i in range(0, len(CODE_POINTS), 256)]
    tokenizer = byte_tokenizer(pre_tokenizers.Digits(individual_digits=True))
    tokenizer.model = models.BPE(vocab=tokenizer.get_vocab(), merges=[])
    compare(tokenizer, tmp_path / "t", chunks)


def test_every_code_point_normalizes_the_same(tmp_path):
    inputs = []
    for i in range(0, len(CODE_POINTS), 64):
        inputs.append("".join(f"e{c}\u0301{c}\u0323\u0345" for c in CODE_POINTS[i : i + 64]))
    compare(byte_tokenizer(normalizer=normalizers.NFC()), tmp_path / "t", inputs)


def test_changed_merge_order_is_noticed(tmp_path):
    """The comparison can fail: two merges change places in the file that the C++ side reads."""
    tokenizer = train(LLAMA_3, 1500)
    inputs = texts()[:2000]
    expected = [e.ids for e in tokenizer.encode_batch_fast(inputs)]
    file = json.loads(tokenizer.to_str())
    merges = file["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]
    (tmp_path / "t").write_text(json.dumps(file))
    assert [ids for ids, _ in ours(tmp_path / "t", inputs)] != expected
