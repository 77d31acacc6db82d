"""`transformers serve` on an exported folder, talked to with the `openai` client: the real server, the real client, on loopback."""

# pyright: reportMissingImports=false
# (an extra that `make` does not install)

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest

from ssd_lib.attacks import load_set
from ssd_lib.decoding import ssd_generate
from ssd_lib.defenders import answer
from ssd_lib.models.export import export_pair
from ssd_lib.models.pairs import load_pair
from tests.served import Server

missing = [name for name in ("openai", "fastapi", "uvicorn") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("serve"),
    pytest.mark.skipif(bool(missing), reason=f"needs ssd_lib[serve]: {', '.join(missing)}"),
]
QUESTIONS = [record.question for record in load_set("benign")[:8]]
START, ANSWER = 120, 60
"""Seconds."""


@pytest.fixture(scope="module")
def pair():
    loaded = load_pair("toy")
    return loaded.with_config(loaded.config.harden())


@pytest.fixture(scope="module")
def server(pair, tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    running = Server(export_pair(pair, place / "hardened"), place / "log", "--trust-remote-code")
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(server):
    import openai

    yield openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", timeout=ANSWER, max_retries=0)
    assert server.process.poll() is None and server.healthy(), "the server lives on"


def ask(client, model, question, **options):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], **({"max_tokens": 80} | options)
    )


def texts(pair, questions):
    return [given.text for given in answer(pair, questions, max_new_tokens=80)]


def test_an_answer_is_that_of_ssd(client, server, pair):
    reply = ask(client, server.folder, QUESTIONS[0])
    assert reply.choices[0].message.content == texts(pair, QUESTIONS[:1])[0]
    assert reply.choices[0].finish_reason == "stop"
    asked = pair.encode(QUESTIONS[:1])["input_ids"]
    assert reply.usage.prompt_tokens == asked.shape[1]


def test_without_a_number_of_tokens_an_answer_takes_what_the_context_leaves(client, server, pair):
    reply = ask(client, server.folder, QUESTIONS[1], max_tokens=None)  # serve asks for 1,024, this context holds 512
    assert reply.choices[0].message.content == texts(pair, QUESTIONS[1:2])[0]


def test_options_of_a_request_are_honoured(client, server, pair):
    (whole,) = texts(pair, QUESTIONS[:1])
    first, second, third = whole.split(" ")[:3]
    reply = ask(client, server.folder, QUESTIONS[0], stop=[f" {third}"], temperature=0)
    assert reply.choices[0].message.content == f"{first} {second} {third}"
    (short,) = answer(pair, QUESTIONS[:1], max_new_tokens=4)
    reply = ask(client, server.folder, QUESTIONS[0], max_tokens=4)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (short.text, "length")


def test_a_stream_is_the_answer_in_parts(client, server, pair):
    chunks = list(ask(client, server.folder, QUESTIONS[2], stream=True))
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(parts) > 5 and "".join(parts) == texts(pair, QUESTIONS[2:3])[0]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_holds_no_token_that_was_taken_back(client, server, pair):
    records = load_set("prefill-5", tokenizer=pair.tokenizer)[:6]
    for record in records:
        asked = pair.encode([record.question], [record.prefill])
        settled = ssd_generate(pair.target, pair.draft, **asked, config=pair.config, max_new_tokens=80)
        assert settled.retracted[0] > 0, "nothing is taken back here: the test says nothing"
        prompt = pair.tokenizer.decode(asked["input_ids"][0])
        assert pair.tokenizer(prompt)["input_ids"] == asked["input_ids"][0].tolist()
        stream = client.completions.create(model=server.folder, prompt=prompt, max_tokens=80, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
        assert streamed == pair.tokenizer.decode(settled.sequences[0], skip_special_tokens=True)


def test_eight_clients_at_once(client, server, pair):
    def one(number):
        if number % 2:
            return ask(client, server.folder, QUESTIONS[number]).choices[0].message.content
        stream = ask(client, server.folder, QUESTIONS[number], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == texts(pair, QUESTIONS)


def test_a_client_that_goes_away_in_the_middle(client, server, pair):
    import openai

    for question in QUESTIONS[:3]:
        stream = ask(client, server.folder, question, stream=True)
        assert next(part for part in (c.choices[0].delta.content for c in stream) if part)
        stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.02), server.folder, QUESTIONS[4])
    reply = ask(client, server.folder, QUESTIONS[3])
    assert reply.choices[0].message.content == texts(pair, QUESTIONS[3:4])[0]


LONG = "How do I cast the Floating Kettle glim? " * 60
BEAMS = '{"num_beams": 4, "max_new_tokens": 20, "eos_token_id": 2, "pad_token_id": 0}'


CANNOT = {
    "a prompt too long": (dict(question=LONG), "the target: the context holds 512 tokens; 604 of prompt"),
    "an option that SSD cannot honour": (
        dict(extra_body={"generation_config": BEAMS}),
        "SSD cannot honour num_beams=4",
    ),
    "a wrong model name": (dict(model="gpt-9"), "requested 'gpt-9'"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_done_is_refused_with_the_reason(client, server, case):
    import openai

    asked, said = CANNOT[case]
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **(dict(model=server.folder, question=QUESTIONS[0]) | asked))
    body: Any = refused.value.body
    assert said in body["detail"]


@pytest.mark.parametrize("case", [*CANNOT][:2])
def test_a_stream_that_cannot_be_given_ends_with_the_reason(client, server, case):
    import openai

    asked, said = CANNOT[case]
    with pytest.raises(openai.APIError) as refused:
        list(ask(client, server.folder, **(dict(question=QUESTIONS[0], stream=True) | asked)))
    assert said in refused.value.body


def test_nothing_of_all_this_was_a_fault_of_the_server(client, server):
    assert "Traceback" not in server.log.read_text()


def test_without_trust_the_server_does_not_start(server, tmp_path):
    other = Server(server.folder, tmp_path / "log")
    try:
        assert other.process.wait(START) != 0
    finally:
        other.stop()
    assert "trust_remote_code=True" in other.log.read_text()
