"""The chat on the terminal, with the model that ships."""

from __future__ import annotations

import io
import pathlib
import subprocess
import sys

import pytest
import torch
import transformers

from sparse_attention_hub import chat

MODEL = "models/retrieval-6m"
PIPELINE = "configs/oracle_top_k_2.json"
TEXT = pathlib.Path("evaluation/haystack/persuasion.txt").read_text(encoding="utf-8")


@pytest.fixture
def conversation() -> chat.Conversation:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    return chat.Conversation(model, tokenizer, max_new_tokens=8, out=io.StringIO())


def said(conversation: chat.Conversation) -> str:
    assert isinstance(conversation.out, io.StringIO)
    return conversation.out.getvalue()


def test_an_answer_streams_and_is_that_of_generate(conversation: chat.Conversation) -> None:
    turn = conversation.say(TEXT[:2000])
    assert turn.text in said(conversation)
    assert turn.new_tokens == 8
    assert turn.density is None and "dense" in turn.report()
    ids = conversation.tokenizer(TEXT[:2000], return_tensors="pt")
    with torch.no_grad():
        alone = conversation.model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert turn.text == conversation.tokenizer.decode(alone[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_second_message_reads_its_own_tokens_only(conversation: chat.Conversation) -> None:
    first = conversation.say(TEXT[:3000])
    second = conversation.say(" And then he said:")
    assert first.read_tokens > 500
    assert second.read_tokens < 20
    # What the cache held is what a fresh reading of the whole conversation would hold.
    whole = TEXT[:3000] + first.text + " And then he said:"
    ids = conversation.tokenizer(whole, return_tensors="pt")
    with torch.no_grad():
        alone = conversation.model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert second.text == conversation.tokenizer.decode(alone[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    conversation.reset()
    assert conversation.say("Hello").read_tokens < 5


def test_a_pipeline_is_at_work_and_measured(conversation: chat.Conversation) -> None:
    conversation.config = PIPELINE
    turn = conversation.say(TEXT[:20000])
    assert turn.density is not None and 0.02 < turn.density < 0.2
    assert turn.kv_rows is not None and turn.kv_rows >= turn.density
    assert f"density {turn.density:.1%}" in turn.report()
    conversation.config = None
    assert conversation.say(" And").density is None


def test_commands(conversation: chat.Conversation, tmp_path: pathlib.Path) -> None:
    document = tmp_path / "document.txt"
    document.write_text(TEXT[:600], encoding="utf-8")
    lines = [
        "/help", "/config", f"/config {PIPELINE}", "/config no/such/file.json", "/config", f"/load {document}",
        "/load no/such/file.txt", "What next?", "/what", "/config dense", "/config", "/reset", "", "/quit", "unread",
    ]  # fmt: skip
    chat.chat(conversation, io.StringIO("\n".join(lines)), prompt="")
    answers = said(conversation).splitlines()
    assert said(conversation).startswith(chat.HELP)
    rest = answers[len(chat.HELP.splitlines()) :]
    assert rest[0] == "[dense]"
    assert rest[1] == f"[{PIPELINE}]"
    assert "no/such/file.json" in rest[2]
    assert rest[3] == f"[{PIPELINE}]"  # a pipeline that cannot be made changes nothing
    assert rest[4] == "[600 characters before the next message]"
    assert "no/such/file.txt" in rest[5]
    report = next(line for line in rest if "tokens read" in line)
    assert int(report[1:].split()[0]) > 100  # the document was read
    assert rest[-3] == "[there is no command /what; /help lists them]"
    assert rest[-2:] == ["[dense]", "[dense]"]


def test_the_command_line() -> None:
    run = lambda *arguments, text="": subprocess.run(  # noqa: E731
        [sys.executable, "-m", "sparse_attention_hub.chat", *arguments], input=text, capture_output=True, text=True
    )
    done = run(MODEL, "--device", "cpu", "--config", PIPELINE, "--max-new-tokens", "2", text="Once upon a time\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert "2 tokens at" in done.stdout
    assert "no/such/model is not a folder" in run("no/such/model").stderr
    wrong = run(MODEL, "--config", "no/such/pipeline.json")
    assert wrong.returncode == 2
    assert "no/such/pipeline.json" in wrong.stderr
