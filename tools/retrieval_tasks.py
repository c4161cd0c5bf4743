"""Retrieval and aggregation samples as token ids, for training and for the check after it.

The templates, alphabets and held-out rules are those of `docs/tasks.md`; the C++ generator in
`evaluation/` makes the same text. Pieces start with a blank and the tokenizer splits there, so that
joined ids equal the ids of the joined text.
"""

import dataclasses

import numpy as np

TASKS = ("niah_single", "niah_multikey", "niah_multivalue", "variable_tracking", "common_words")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LIST_WORDS = (
    "address back block buffer byte call case change class code command control data device "
    "driver error event family father field file flag form frame friend function hand heart "
    "help host house index input kernel king level line link list lock memory message method "
    "mode mother name object order output page people place point port power process program "
    "reason request result sister size state").split()
HELD_OUT_MODULUS = 8  # index sums divisible by this belong to evaluation, all others to training
COMMON_SHARES = (0.15, 0.11, 0.08)
CHAIN_LENGTH = 5

TEXT = {
    "needle": (" The magic number of", " is", "."),
    "single_question": ("\n\nQuestion: What is the magic number of",
                        "?\nAnswer: The magic number of", " is"),
    "multi_question": ("\n\nQuestion: What are all the magic numbers of",
                       "?\nAnswer: The magic numbers of", " are"),
    "store": (" Store", " in VAR", "."),
    "copy": (" Copy VAR", " to VAR", "."),
    "chain_question": ("\n\nQuestion: Which variables hold the value",
                       "?\nAnswer: The variables that hold", " are"),
    "words_question": ("\n\nQuestion: Which three words are the most common?"
                       "\nAnswer: The three most common words are",),
    "comma": (",",),
}


def wording_for_tokenizer(rng, repeats=3000):
    """Template text and list words, often enough that each of their words becomes one token."""
    lines = []
    for _ in range(repeats):
        for pieces in TEXT.values():
            key = "".join(rng.choice(SYLLABLES) for _ in range(3))
            lines.append(f" {key}".join(pieces))
        lines.append(" " + " ".join(LIST_WORDS))
    return "\n".join(lines)


def multikey_needles(budget):
    return min(max(budget // 256, 4), 64)


@dataclasses.dataclass
class Sample:
    ids: np.ndarray      # uint16, begin-of-text first
    weights: np.ndarray  # float32, weight of predicting ids[i]


class Vocabulary:
    """Token ids of every piece that a sample is joined from."""

    def __init__(self, tokenizer):
        def encode(text):
            return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.uint16)

        self.bos = np.array([tokenizer.token_to_id("<|begin_of_text|>")], np.uint16)
        self.eos = np.array([tokenizer.token_to_id("<|end_of_text|>")], np.uint16)
        self.text = {name: tuple(map(encode, pieces)) for name, pieces in TEXT.items()}
        keys = [f" {a}{b}{c}" for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
        names = [f" {a}{b}{c}" for a in LETTERS for b in LETTERS for c in LETTERS]
        self.keys = [np.array(e.ids, np.uint16)
                     for e in tokenizer.encode_batch(keys, add_special_tokens=False)]
        self.names = [np.array(e.ids, np.uint16)
                      for e in tokenizer.encode_batch(names, add_special_tokens=False)]
        self.key_sets = self._split(len(SYLLABLES))
        self.name_sets = self._split(len(LETTERS))
        self.digits = np.array([encode(str(d))[0] for d in range(10)], np.uint16)
        self.blank = encode(" ")
        words = [encode(" " + word) for word in LIST_WORDS]
        assert all(len(word) == 1 for word in words), "list words must be single tokens"
        self.words = np.concatenate(words)

    @staticmethod
    def _split(base):
        """(training indices, evaluation indices) of all three-part names over `base` parts."""
        parts = np.arange(base)
        sums = (parts[:, None, None] + parts[None, :, None] + parts[None, None, :]).ravel()
        held_out = sums % HELD_OUT_MODULUS == 0
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def number(self, value):
        return np.concatenate([self.blank, self.digits[[int(d) for d in str(value)]]])

    def fill(self, template, *arguments):
        pieces = self.text[template]
        parts = [pieces[0]]
        for argument, piece in zip(arguments, pieces[1:]):
            parts += [argument, piece]
        return np.concatenate(parts)


class Haystack:
    """Token streams with the offsets at which a needle may stand."""

    def __init__(self, tokenizer, streams, shares):
        strings = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
        ends = np.array([s.rstrip("\"')Ċ").endswith((".", "!", "?")) or "Ċ" in s
                         for s in strings])
        starts = np.array([s.startswith(("Ġ", "Ċ")) for s in strings])
        self.streams = [np.asarray(stream, np.uint16) for stream in streams]
        self.boundaries = [np.flatnonzero(ends[s[:-1]] & starts[s[1:]]) + 1 for s in self.streams]
        self.shares = np.asarray(shares, np.float64) / np.sum(shares)

    def slice(self, rng, length):
        """`length` tokens from a random sentence on, and the boundaries among them."""
        which = rng.choice(len(self.streams), p=self.shares)
        stream, boundaries = self.streams[which], self.boundaries[which]
        last = np.searchsorted(boundaries, len(stream) - length, side="right")
        start = boundaries[rng.integers(max(last, 1))]
        low, high = np.searchsorted(boundaries, (start, start + length))
        return stream[start:start + length], boundaries[low:high] - start


class SampleMaker:
    """Draws samples; `held_out` picks the keys and names that training never sees."""

    def __init__(self, vocabulary, haystack, held_out=False):
        self.vocabulary, self.haystack, self.part = vocabulary, haystack, int(held_out)

    def plain(self, rng, length):
        text, _ = self.haystack.slice(rng, length - 1)
        return self._join([(self.vocabulary.bos, 0.0), (text, 1.0)])

    def mixed(self, rng, length, answer_weight):
        """Needles of all kinds in one context, followed by many questions."""
        room = max(length // 48, 3)
        singles = int(np.exp(rng.uniform(0, np.log(min(64, room) + 1))))
        lists = rng.integers(0, 2 if length < 1024 else 4)
        chains = rng.integers(0, 2 if length < 1024 else 4)
        groups, questions = self._needles(rng, singles, rng.integers(2, 5, lists),
                                          rng.integers(3, CHAIN_LENGTH + 1, chains))
        # Single needles outnumber the other kinds by far: let half of them step back.
        hard = singles <= np.arange(len(questions))
        order = np.argsort(rng.random(len(questions)) * np.where(hard, 0.5, 1.0))
        questions = [questions[i] for i in order]
        count = 1 if rng.random() < 0.2 else int(np.clip(length // 128, 3, 16))
        return self._with_haystack(rng, length, groups, questions[:count], answer_weight)

    def task(self, rng, task, length, answer_weight=1.0, budget=None):
        """One question of `task`. With `budget` the context gets exactly that many tokens."""
        context = budget or length
        if task == "common_words":
            return self._words(rng, length, answer_weight, budget)
        singles, lists, chains = {
            "niah_single": (1, [], []), "niah_multikey": (multikey_needles(context), [], []),
            "niah_multivalue": (4, [4], []),
            "variable_tracking": (0, [], [CHAIN_LENGTH, CHAIN_LENGTH])}[task]
        groups, questions = self._needles(rng, singles, lists, chains)
        asked = {"niah_multivalue": -1}.get(task, int(rng.integers(len(questions))))
        return self._with_haystack(rng, length, groups, [questions[asked]], answer_weight, budget)

    def _needles(self, rng, singles, lists, chains):
        """Groups of needles (order within a group is kept) and one question for each group."""
        v = self.vocabulary
        groups, questions = [], []
        keys = rng.choice(v.key_sets[self.part], singles + len(lists), replace=False, shuffle=False)
        counts = [1] * singles + [int(c) for c in lists]
        for key, count in zip((v.keys[k] for k in keys), counts):
            values = [v.number(x) for x in rng.integers(100000, 1000000, count)]
            groups.append([v.fill("needle", key, value) for value in values])
            question = "single_question" if count == 1 else "multi_question"
            questions.append((v.fill(question, key, key), self._listing(values)))
        for length in chains:
            names = [v.names[n] for n in rng.choice(v.name_sets[self.part], length, replace=False)]
            value = v.number(rng.integers(100000, 1000000))
            groups.append([v.fill("store", value, names[0])] +
                          [v.fill("copy", a, b) for a, b in zip(names, names[1:])])
            questions.append((v.fill("chain_question", value, value), self._listing(names)))
        return groups, questions

    def _listing(self, items):
        comma = self.vocabulary.text["comma"][0]
        parts = [items[0]]
        for item in items[1:]:
            parts += [comma, item]
        return np.concatenate(parts + [self.vocabulary.eos])

    def _with_haystack(self, rng, length, groups, questions, answer_weight, budget=None):
        needles = sum(len(needle) for group in groups for needle in group)
        asked = sum(len(q) + len(a) for q, a in questions)
        filler = (budget if budget else length - 1 - asked) - needles
        if filler < 16:
            return self.plain(rng, length)
        text, boundaries = self.haystack.slice(rng, filler)
        boundaries = boundaries if len(boundaries) else np.array([0])
        placed = []
        for group in groups:
            for needle, place in zip(group, np.sort(rng.choice(boundaries, len(group)))):
                placed.append((place, rng.random(), needle))
        # A stable sort by place keeps the order within a group where two needles share a place.
        placed.sort(key=lambda entry: entry[0])
        parts, done = [(self.vocabulary.bos, 0.0)], 0
        for place, _, needle in placed:
            # No loss on the haystack: its texts are few, and repeating them teaches them by heart.
            parts += [(text[done:place], 0.0), (needle, 0.3)]
            done = place
        parts.append((text[done:], 0.0))
        return self._join(parts + self._asked(questions, answer_weight))

    def _asked(self, questions, answer_weight):
        parts = []
        for question, answer in questions:
            parts += [(question, 1.0), (answer, answer_weight)]
        return parts

    def _words(self, rng, length, answer_weight, budget):
        v = self.vocabulary
        question, = v.text["words_question"]
        count = budget if budget else length - 1 - len(question) - 6
        order = rng.permutation(len(v.words))
        if budget:
            shares, others = np.array(COMMON_SHARES), len(v.words) - 3
        else:
            shares = rng.uniform(0.09, 0.30) * np.cumprod([1, *rng.uniform(0.6, 0.8, 2)])
            others = rng.integers(20, len(v.words) - 2)
        common = np.floor(shares * count + 0.5).astype(int)
        rest = np.arange(count - common.sum()) % others + 3
        which = order[np.concatenate([np.repeat(np.arange(3), common), rest])]
        rng.shuffle(which)
        answer = self._listing([v.words[order[i]:order[i] + 1] for i in range(3)])
        return self._join([(v.bos, 0.0), (v.words[which], 0.3)] +
                          self._asked([(question, answer)], answer_weight))

    @staticmethod
    def _join(parts):
        ids = np.concatenate([part for part, _ in parts])
        weights = np.repeat(np.array([w for _, w in parts], np.float32), [len(p) for p, _ in parts])
        return Sample(ids, weights)
