"""Text into a model's input tokens, in such a way that no text becomes a control token.

The chat template is rendered once, around a stand-in for the text. What the template says becomes tokens as always,
while the text is read by a copy of the tokenizer that knows no control tokens, and what comes of it is checked. So what
a text spells out stays text, whatever the tokenizer's normalizer makes of it.
"""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.text import one_line
from advgame.trainer.prompts.markers import break_up, written_roles

STAND_IN = "Is 2718281828 & 'Pi'  =\n\"3\"?"
"""A user's turn that shows whether a template changes letters, marks or white space."""

SPACE = "▁"
"""SentencePiece's."""


@dataclass(frozen=True)
class Frame:
    """What a model's chat template puts around a user's turn."""

    before: list[int]
    """Tokens up to the last control token before the turn."""
    head: str
    """What the template says between that token and the turn, such as `user` and a line break."""
    tail: str
    """What it says between the turn and the next control token."""
    after: list[int]
    """Tokens from that control token on."""
    reader: Tokenizer
    """The tokenizer without control tokens; of added tokens it knows the fence, and runs of white space."""
    fence: str
    """Stands for the control token beside head or tail: at the start of a text, tokens may be others than within."""
    control: dict[int, str]
    """The tokens that text must not become, and how they are spelt."""
    roles: frozenset[str]
    """The template's roles that are plain text, as they are written and as they are read; text must not have them."""

    def read(self, text: str) -> list[int]:
        """The tokens of head, text and tail."""
        left, right = self.fence if self.before else "", self.fence if self.after else ""
        ids = self.reader.encode(f"{left}{self.head}{text}{self.tail}{right}", add_special_tokens=False).ids
        return ids[bool(left) : len(ids) - bool(right)]

    def is_plain(self, ids: list[int]) -> bool:
        """True if there is no control token, and no role but those of an empty turn."""
        return not self.control.keys() & set(ids) and (not self.roles or self._count_roles(ids) <= self._own_roles)

    def normalized(self, text: str) -> str:
        """The text as the tokenizer sees it."""
        return _normalized(self.reader, text)

    @cached_property
    def _own_roles(self) -> int:
        return self._count_roles(self.read(""))

    def _count_roles(self, ids: list[int]) -> int:
        seen = self.reader.decode(ids, skip_special_tokens=False)
        return sum(seen.count(role) for role in self.roles)


def chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a user's turn and the opening of the assistant's, in the tokenizer's chat template.

    Control tokens and roles are those of an empty turn, whatever the text says. White space at the ends of the text is
    kept, also where the template would strip it. Raises ConfigError as `chat_frame` does.
    """
    frame = chat_frame(tokenizer)
    readings = (frame.read(candidate) for candidate in _ever_plainer(frame, text))
    ids = next(filter(frame.is_plain, readings), [])
    return [*frame.before, *ids, *frame.after]


def answer_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of what the assistant is to say, without its end. Whatever would be a control token is left out."""
    frame = chat_frame(tokenizer)
    ids = frame.reader.encode(text, add_special_tokens=False).ids
    return [token for token in ids if token not in frame.control]


@lru_cache(maxsize=16)
def chat_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Made once for each tokenizer object.

    Raises ConfigError if the chat template fails, if it changes what a user says, or if text could imitate its turns.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError("its tokenizer has no tokenizer.json, without which text can be taken for control tokens")
    control = _control_tokens(tokenizer)
    before, after = _render(tokenizer, "user")
    whole, begin = f"{before}{STAND_IN}{after}", len(before)
    encoding = backend.encode(whole, add_special_tokens=False)
    marks = [(i, *encoding.offsets[i]) for i, token in enumerate(encoding.ids) if token in control]
    left, _, head = max((mark for mark in marks if mark[2] <= begin), default=(-1, 0, 0))
    last = (len(encoding), len(whole), len(whole))
    right, tail, _ = min((mark for mark in marks if mark[1] >= begin + len(STAND_IN)), default=last)
    fence = secrets.token_hex(16)  # what nobody knows, nobody can write
    reader = _make_reader(backend, fence)
    frame = Frame(
        before=encoding.ids[: left + 1],
        head=whole[head:begin],
        tail=whole[begin + len(STAND_IN) : tail],
        after=encoding.ids[right:],
        reader=reader,
        fence=fence,
        control=control,
        roles=_readings(reader, _find_roles(tokenizer, [*control.values()])),
    )
    if not frame.is_plain(frame.read("")):
        raise ConfigError("its tokenizer takes plain words of its chat template for control tokens; correct either")
    return frame


def _ever_plainer(frame: Frame, text: str) -> Iterator[str]:
    """The text; where that will not do, without what reads like a control token or a role; at last without any mark."""
    yield text
    seen = frame.normalized(text)
    markers = {*frame.roles, *(spelt for spelt in frame.control.values() if spelt in text or spelt in seen)}
    yield break_up(text, markers)
    yield break_up(seen, markers)
    yield break_up(seen, markers, " ")
    yield re.sub(r"[^\w\s]|_", " ", seen)
    yield ""


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """All added tokens, special or not, but for runs of white space and what stands for unknown characters."""
    unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    added = {token: spelt.content for token, spelt in tokenizer.added_tokens_decoder.items()}
    return {token: text for token, text in added.items() if not _is_blank(text) and token not in unknown}


def _is_blank(text: str) -> bool:
    return not text.replace(SPACE, " ").strip()


def _make_reader(backend: Tokenizer, fence: str) -> Tokenizer:
    """A copy that looks for no added tokens, whatever their kind, but for the fence and runs of white space."""
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["special"] = not _is_blank(token["content"])
    reader = Tokenizer.from_str(json.dumps(state | {"truncation": None, "padding": None}))
    reader.encode_special_tokens = True
    reader.add_tokens([AddedToken(fence, normalized=False)])
    return reader


def _render(tokenizer: PreTrainedTokenizerBase, *speakers: str) -> list[str]:
    """What the chat template says before, between and after the turns of these speakers."""
    turns = [{"role": speaker, "content": STAND_IN} for speaker in speakers]
    try:
        text = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # whatever a template from a stranger raises
        raise ConfigError(f"its chat template fails: {one_line(error)[:200]}") from error
    parts = text.split(STAND_IN)
    if len(parts) != len(turns) + 1:
        raise ConfigError("its chat template changes, repeats or leaves out what is said in a turn; correct it")
    return parts


def _find_roles(tokenizer: PreTrainedTokenizerBase, control: list[str]) -> set[str]:
    """The roles that are plain text; none where control tokens and bare words mark the turns."""

    def between(part: str) -> list[str]:
        return re.split("|".join(map(re.escape, sorted(control, key=len, reverse=True))), part) if control else [part]

    spoken = [between(part) for part in _render(tokenizer, "user", "assistant", "user")[1:]]
    if any(len(part) == 1 and not written_roles(part) for part in spoken):
        raise ConfigError(
            "its chat template has neither a control token nor a mark between two turns, so any text could begin "
            "another; correct the template"
        )
    roles = set().union(*map(written_roles, spoken))
    if roles:
        with suppress(ConfigError):  # many templates take no system prompt
            roles |= set().union(*(written_roles(between(part)) for part in _render(tokenizer, "system", "user")))
    return roles


def _readings(reader: Tokenizer, roles: set[str]) -> frozenset[str]:
    """The roles as they are written, as they are normalized, and as their tokens read."""
    decoded = (reader.decode(reader.encode(role, add_special_tokens=False).ids) for role in roles)
    forms = {*roles, *(_normalized(reader, role) for role in roles), *decoded}
    return frozenset(form.strip() for form in forms if written_roles([form]))


def _normalized(reader: Tokenizer, text: str) -> str:
    return reader.normalizer.normalize_str(text).replace(SPACE, " ") if reader.normalizer else text
