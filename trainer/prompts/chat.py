"""Text into a model's input tokens."""

from transformers import PreTrainedTokenizerBase


def chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a user's turn and the opening of the assistant's, in the tokenizer's chat template.

    A zero-width space breaks special tokens that are spelt out in the text, so text alone cannot end the turn or
    begin another.
    """
    for token in {*tokenizer.all_special_tokens, *_control_tokens(tokenizer)}:
        text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
