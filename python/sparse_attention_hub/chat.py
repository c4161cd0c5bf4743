"""A chat on the terminal with a sparse model: `python -m sparse_attention_hub.chat MODEL_DIR --config PIPELINE`.

Answers stream; below each stand its tokens per second, the density and the share of K and V rows that sparse steps read.
The conversation's cache is kept between turns, so that a long document is read once. `/help` lists the commands.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch

from . import _core

HELP = """\
/config PATH   go on with another pipeline; "dense" for dense attention; without PATH: show the present one
/load FILE     put a text before the next message
/reset         forget the conversation
/help          this list
/quit          end (also: the end of the input)"""


@dataclass
class Turn:
    """What one answer took.

    Attributes:
        text: The answer.
        new_tokens: Its tokens.
        read_tokens: Tokens that the model read before it, without those in the cache.
        first_token_s: Seconds to the first token.
        total_s: Seconds in all.
        density: Mean share of keys that sparse steps selected; None where none ran.
        kv_rows: Mean share of K and V rows that sparse steps read; None likewise.
    """

    text: str
    new_tokens: int
    read_tokens: int
    first_token_s: float
    total_s: float
    density: float | None
    kv_rows: float | None

    def report(self) -> str:
        decoding = self.total_s - self.first_token_s
        speed = (self.new_tokens - 1) / decoding if self.new_tokens > 1 and decoding > 0 else 0.0
        attention = (
            "dense" if self.density is None or self.kv_rows is None
            else f"density {self.density:.1%}, K and V rows read {self.kv_rows:.1%}"
        )
        return (
            f"[{self.read_tokens} tokens read, first token after {self.first_token_s:.2f} s, "
            f"{self.new_tokens} tokens at {speed:.1f}/s, {attention}]"
        )


@dataclass
class Conversation:
    """A model, its cache, and what was said.

    Attributes:
        model: A decoder of transformers.
        tokenizer: Its tokenizer.
        config: The pipeline's path; None for dense attention.
        max_new_tokens: Of an answer.
        out: Where answers stream to.
    """

    model: Any
    tokenizer: Any
    config: str | None = None
    max_new_tokens: int = 256
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation."""
        from transformers import DynamicCache

        self._messages: list[dict[str, str]] = []
        self._ids: list[int] = []  # what the cache holds
        self._cache = DynamicCache()
        self._before = ""

    def put_before(self, text: str) -> None:
        """`text` stands before the next message."""
        self._before += text

    def say(self, message: str) -> Turn:
        """The model's answer to `message`, streamed to `out`."""
        ids = self._prompt_ids(self._before + message)
        self._before = ""
        self._cut_cache_to(ids)
        read = len(ids) - len(self._ids)
        sink = _core.MemorySink()
        streamer = _Streamer(self.tokenizer, self.out)
        start = time.perf_counter()
        with torch.no_grad(), self._sparse(sink):
            generated = self.model.generate(
                torch.tensor([ids], device=self.model.device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.model.device),
                past_key_values=self._cache,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
                streamer=streamer,
            )
        total = time.perf_counter() - start
        new = generated[0, len(ids) :].tolist()
        self._ids = generated[0, : self._cache.get_seq_length()].tolist()
        answer = self.tokenizer.decode(new, skip_special_tokens=True)
        self._messages.append({"role": "assistant", "content": answer})
        return Turn(
            answer,
            len(new),
            read,
            (streamer.first_token_at or start) - start,
            total,
            _mean(sink, "research_attention_density"),
            _mean(sink, "kv_rows_fraction"),
        )

    def _sparse(self, sink: _core.MemorySink) -> contextlib.AbstractContextManager[Any]:
        from .transformers import sparse

        if self.config is None:
            return contextlib.nullcontext()
        return sparse(self.model, self.config, metrics=sink, check=False)

    def _prompt_ids(self, message: str) -> list[int]:
        """The whole conversation as tokens."""
        if getattr(self.tokenizer, "chat_template", None):
            self._messages.append({"role": "user", "content": message})
            text = self.tokenizer.apply_chat_template(self._messages, tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer.encode(text, add_special_tokens=False))  # the template holds them
        # Without a template the model goes on with the text.
        self._messages.append({"role": "user", "content": message})
        text = "".join(entry["content"] for entry in self._messages)
        return list(self.tokenizer.encode(text))

    def _cut_cache_to(self, ids: list[int]) -> None:
        """The cache keeps the tokens that it shares with `ids`, without the last, which has to be read."""
        shared = 0
        for held, wanted in zip(self._ids, ids[:-1]):
            if held != wanted:
                break
            shared += 1
        if shared < len(self._ids):
            self._cache.crop(shared)
        self._ids = ids[:shared]


def _mean(sink: _core.MemorySink, metric: str) -> float | None:
    try:
        return sink.mean(metric)
    except KeyError:
        return None


class _Streamer:
    """Prints tokens when the text that they make up is settled, and notes when the first came."""

    def __init__(self, tokenizer: Any, out: TextIO) -> None:
        from transformers import TextStreamer

        class Printer(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                out.write(text + ("\n" if stream_end else ""))
                out.flush()

        self._printer = Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._prompt_seen = False
        self.first_token_at: float | None = None

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self._prompt_seen = True
        self._printer.put(value)

    def end(self) -> None:
        self._printer.end()


def chat(conversation: Conversation, lines: TextIO, prompt: str = "> ") -> None:
    """Reads messages and commands until the input ends or /quit."""
    out = conversation.out
    while True:
        out.write(prompt)
        out.flush()
        line = lines.readline()
        if not line:
            out.write("\n")
            return
        line = line.rstrip("\n")
        command, _, argument = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/help":
                out.write(HELP + "\n")
            elif command == "/reset":
                conversation.reset()
            elif command == "/load":
                text = pathlib.Path(argument.strip()).read_text(encoding="utf-8")
                conversation.put_before(text)
                out.write(f"[{len(text)} characters before the next message]\n")
            elif command == "/config":
                if argument.strip():
                    conversation.config = _checked_config(argument.strip(), conversation.model)
                out.write(f"[{conversation.config or 'dense'}]\n")
            elif command.startswith("/"):
                out.write(f"[there is no command {command}; /help lists them]\n")
            elif line:
                out.write(conversation.say(line).report() + "\n")
        except KeyboardInterrupt:
            out.write("\n[stopped; the conversation goes on from before this message]\n")
        except (OSError, UnicodeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            out.write(f"[{error}]\n")


def _checked_config(argument: str, model: Any) -> str | None:
    """The path of a pipeline that can be made, None for "dense".

    Raises:
        ValueError: An entry of it is wrong.
        KeyError: There is no such file.
    """
    from ._pipeline import pipeline_json

    if argument == "dense":
        return None
    _core.HostAttention(pipeline_json(argument, getattr(model, "name_or_path", "") or ""))
    return argument


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_attention_hub.chat", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--config", default="dense", help='pipeline in JSON, or "dense" (default)')
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the checkpoint's")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args(arguments)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not pathlib.Path(options.model).is_dir():
        parser.error(f"{options.model} is not a folder")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = getattr(torch, options.dtype) if options.dtype else "auto"
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(options.device).eval()
    conversation = Conversation(model, tokenizer, max_new_tokens=options.max_new_tokens)
    try:
        conversation.config = _checked_config(options.config, model)
    except (ValueError, KeyError, NotImplementedError) as error:
        parser.error(str(error))
    print(f"{options.model}, {options.device}, {str(model.dtype).removeprefix('torch.')}; /help lists the commands")
    chat(conversation, sys.stdin)


if __name__ == "__main__":
    main()
