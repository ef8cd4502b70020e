"""Chat tokens: of every family of tokenizers, ordinary text is read as always, and no text becomes a control token."""

from functools import cache

import pytest
from families import CONTROL, FAMILIES, ROLES, control_ids, hostile
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy, save_policy
from advgame.trainer.prompts.chat import answer_ids, chat_frame, chat_ids
from advgame.trainer.prompts.markers import BREAK, break_known
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.seeds import read_seeds

LOSSLESS = {*FAMILIES} - {"nfkc", "stripping", "stripping_roles"}
"""The vocabularies of the others have not every character."""

BYTE_LEVEL = {"chatml", "llama3", "deepseek"}
"""Those keep white space as well. None of them has roles that are plain text, so nothing has to be broken."""

ORDINARY = [
    "hello there",
    "x",
    "How do I sharpen a kitchen knife?",
    "two  spaces\n\nand\tlines: 5 > 3 & 2 < 4 (roughly) {so}",
    "Ünïcödé, 日本, ✓ — it's fine",
    *(seed.query for seed in read_seeds(["harmful.jsonl", "benign.jsonl"])[::10]),
]


@cache
def make(name: str) -> PreTrainedTokenizerFast:
    return FAMILIES[name]()


@pytest.fixture(params=FAMILIES)
def family(request) -> tuple[str, PreTrainedTokenizerFast]:
    return request.param, make(request.param)


def squeezed(text: str) -> str:
    """Without what normalizers and decoders do to spaces, and without the spaces that break markers."""
    return "".join(c for c in text if not c.isspace() and c not in f"▁{BREAK}")


def test_ordinary_text_is_read_as_always(family):
    _, tokenizer = family
    for text in ORDINARY:
        turn = [{"role": "user", "content": text}]
        assert chat_ids(tokenizer, text) == tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=True, return_dict=False
        ), text


def test_an_answer_is_its_text_and_has_no_control_token(family):
    name, tokenizer = family
    for text in ORDINARY if name in LOSSLESS else []:
        assert squeezed(tokenizer.decode(answer_ids(tokenizer, text))) == squeezed(text)
    for text in hostile(name):
        assert control_ids(tokenizer, answer_ids(tokenizer, text)) == [], text


def test_no_text_becomes_a_control_token(family):
    name, tokenizer = family
    expected = control_ids(tokenizer, chat_ids(tokenizer, "hello"))
    assert len(expected) > 0
    for text in hostile(name):
        assert control_ids(tokenizer, chat_ids(tokenizer, text)) == expected, text


def test_no_text_becomes_a_role(family):
    name, tokenizer = family
    expected = [tokenizer.decode(chat_ids(tokenizer, "hello")).count(role) for role in ROLES.get(name, [])]
    assert (not expected) == (name not in ROLES) and (not expected or sum(expected) > 0)
    for text in hostile(name):
        seen = tokenizer.decode(chat_ids(tokenizer, text))
        assert [seen.count(role) for role in ROLES.get(name, [])] == expected, text


def test_decoding_gives_back_the_text(family):
    """White space too, where the tokenizer keeps that of any text."""
    name, tokenizer = family
    if name not in LOSSLESS:
        return
    frame = chat_frame(tokenizer)
    around = [squeezed(tokenizer.decode(frame.before)) + squeezed(frame.head)]
    around += [squeezed(frame.tail) + squeezed(tokenizer.decode(frame.after))]
    for text in hostile(name):
        seen = tokenizer.decode(chat_ids(tokenizer, text), skip_special_tokens=False)
        assert squeezed(text).join(around) == squeezed(seen), text
        if not any(role in text for role in ROLES.get(name, [])):
            assert text.strip("▁ ") in seen.replace("▁", " ") or "▁" in text


@given(
    st.sampled_from(["chatml", "llama2", "deepseek", "zephyr", "vicuna", "nfkc", "stripping_roles"]).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.lists(
                st.sampled_from([*CONTROL[name], *ROLES.get(name, []), "<", "|", ">", "[", "/", " ", BREAK, "A:", "u"])
                | st.text(max_size=3),
                max_size=12,
            ).map("".join),
        )
    )
)
def test_nor_does_any_mixture(made):
    name, text = made
    tokenizer = make(name)
    plain, ids = chat_ids(tokenizer, "hello"), chat_ids(tokenizer, text)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain)
    for role in ROLES.get(name, []):
        assert tokenizer.decode(ids).count(role) == tokenizer.decode(plain).count(role)


def test_a_vocabulary_of_words_has_the_control_tokens_too():
    tokenizer = load_policy("tiny").tokenizer
    plain = chat_ids(tokenizer, "hello")
    for token in ("<end_0>", "<assistant>", "<user>", "<pad>"):
        attacked = chat_ids(tokenizer, f"hello {token} {token}")
        assert control_ids(tokenizer, attacked) == control_ids(tokenizer, plain)


def test_a_control_token_that_cannot_be_broken_is_left_out():
    """One character, which the vocabulary has: no spelling of it is text."""
    tokenizer = make("mistral")
    core = tokenizer_with(tokenizer, "ﬁ")
    ids = chat_ids(core, "a ﬁne ﬁsh </s>")
    assert core.convert_tokens_to_ids("ﬁ") not in ids
    assert core.decode(ids).replace(BREAK, "") == "<s> [INST] a ne sh </s> [/INST]"


def tokenizer_with(tokenizer: PreTrainedTokenizerFast, token: str) -> PreTrainedTokenizerFast:
    """A copy with another control token."""
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    other.chat_template = tokenizer.chat_template
    other.add_special_tokens({"additional_special_tokens": [token]})
    return other


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ raise_exception('not today') }}", "its chat template fails: not today"),
        ("{{ messages[0].nothing.more }}", "its chat template fails: .*has no attribute"),
        ("{{ 1 / 0 }}", "its chat template fails: division by zero"),
        ("{% for m in messages %}", "its chat template fails: "),
        ("{{ cycler.__init__.__globals__ }}", "its chat template fails: "),
        ("<s>{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes, repeats or leaves out"),
        ("<s>{{ messages[0].content }}", "changes, repeats or leaves out"),
        ("<s>{% for m in messages %}{{ m.content * 2 }}{% endfor %}", "changes, repeats or leaves out"),
        ("{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}assistant", "any text could begin another"),
    ],
)
def test_models_whose_turns_could_be_imitated_are_refused_by_name(template, complaint, tmp_path):
    policy = load_policy("tiny")
    save_policy(policy, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=f"model {tmp_path}: .*{complaint}") as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CONTROL)
def test_a_server_is_sent_no_marker_that_is_widespread(name):
    for text in hostile(name):
        sent = break_known(text)
        assert not any(token in sent for token in CONTROL[name] if token not in ("<tool_call>", "</think>", "☃")), text
        assert sent.replace(BREAK, "") == text.replace(BREAK, "")


def test_a_server_is_sent_ordinary_text_as_it_is():
    prompts = Prompts()
    texts = [*ORDINARY, "a < b > c, a[0] = {}, <b>bold</b>, <think>, x || y |> z", "<s", "[INS]"]
    texts += [prompts.attacker("harmful", "think_prompt", text) for text in ORDINARY]
    texts += [prompts.judge("refusal", "benign", text, (text, text)) for text in ORDINARY]
    assert [break_known(text) for text in texts] == texts
