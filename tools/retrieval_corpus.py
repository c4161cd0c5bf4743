"""Training texts of the shipped retrieval model, read from unpacked Debian packages.

Every source is a Debian package that anybody can fetch with `apt-get download`; nothing else is
read. Jane Austen's Persuasion is kept out of training: it is the haystack that ships with the
repository (`evaluation/haystack/persuasion.txt`).
"""

import gzip
import pathlib
import re
import struct
import subprocess
import zlib

PACKAGES = ("python3.11-doc", "linux-doc-6.1", "bible-kjv", "bible-kjv-text", "r-cran-janeaustenr")
HELD_OUT_NOVEL = "persuasion"


def fetch_packages(folder):
    """Downloads and unpacks PACKAGES into `folder`, one subfolder for each."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = folder / package
        if target.exists():
            continue
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        deb = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, target], check=True)


def read_austen(folder):
    """Returns {novel: lines} from the lazy-load database of the R package janeaustenr."""
    base = pathlib.Path(folder) / "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata"
    index = gzip.decompress(base.with_suffix(".rdx").read_bytes())
    database = base.with_suffix(".rdb").read_bytes()
    # The index lists (offset, length) integer pairs first, then the names in the same order.
    pairs = [struct.unpack(">ii", m.group(1))
             for m in re.finditer(rb"\x00\x00\x00\x0d\x00\x00\x00\x02(.{8})", index, re.S)]
    names = [m.group(1).decode()
             for m in re.finditer(rb"\x00\x04\x00\x09\x00\x00\x00.([a-z]+)", index, re.S)]
    names = [name for name in names if name != "names"][: len(pairs)]
    return {name: _r_strings(zlib.decompress(database[offset + 4:offset + length]))
            for name, (offset, length) in zip(names, pairs)}


def _r_strings(blob):
    """The strings of one serialised R character vector (XDR format, version 2 or 3)."""
    start = blob.index(b"\x00\x00\x00\x10", 14)
    count, = struct.unpack_from(">i", blob, start + 4)
    position, strings = start + 8, []
    for _ in range(count):
        length, = struct.unpack_from(">i", blob, position + 4)
        strings.append(blob[position + 8:position + 8 + max(length, 0)].decode("utf-8"))
        position += 8 + max(length, 0)
    return strings


def clean_novel(lines):
    """One paragraph a line, without title page, chapter headings and emphasis marks."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    kept = []
    for paragraph in paragraphs:
        text = re.sub(r"\s+", " ", paragraph.replace("_", "")).strip()
        text = text.replace("--", " -- ").replace("  ", " ")
        if re.match(r"(chapter|volume)\b", text, re.I) or len(text) < 40 and '"' not in text:
            continue
        kept.append(text)
    return "\n".join(kept) + "\n"


def read_bible(folder):
    """The King James text, one verse a line, references removed."""
    folder = pathlib.Path(folder)
    command = [folder / "bible-kjv/usr/bin/bible", "-p", f"{folder}/bible-kjv-text/usr/lib/", "-f",
               "-l20000", "gen1:1-rev22:21"]
    raw = subprocess.run(command, check=True, capture_output=True, encoding="latin-1").stdout
    verses = []
    for line in raw.splitlines():
        match = re.match(r"\w+?\d+:\d+ (\S.*)", line)
        if match:
            verses.append(re.sub(r"\s+", " ", match.group(1)).strip())
    return "\n".join(verses) + "\n"


def read_rst(folder, pattern):
    """reStructuredText sources with indentation shortened and runs of marks and blanks squeezed."""
    documents = []
    for path in sorted(pathlib.Path(folder).glob(pattern)):
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "replace")
        text = text.replace("\t", "    ").replace("\r", "")
        text = re.sub(r"(?m)^([=~^\"'`#*+-])\1{3,}\s*$", "", text)
        text = re.sub(r"([^\w\s])\1{4,}", r"\1\1\1", text)
        text = re.sub(r"(?<=\S) {2,}", " ", text)
        text = re.sub(r"\n\s*\n+", "\n\n", text).strip()
        documents.append(text)
    return documents


def load_corpora(folder):
    """Returns ({name: [document, ...]}, held-out text)."""
    novels = {name: clean_novel(lines) for name, lines in read_austen(folder).items()}
    held_out = novels.pop(HELD_OUT_NOVEL)
    manuals = "{0}/usr/share/doc/{1}/html/_sources/**/*.txt*"
    return {
        "austen": list(novels.values()),
        "bible": [read_bible(folder)],
        "python": read_rst(folder, manuals.format("python3.11-doc", "python3.11")),
        "linux": read_rst(folder, manuals.format("linux-doc-6.1", "linux-doc-6.1")),
    }, held_out
