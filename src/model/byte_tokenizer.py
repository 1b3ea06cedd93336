"""A tokenizer that needs no file: one token for each byte of UTF-8, and one for the end of a text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NAME = "bytes://"  # as model.tokenizer
END = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 257 tokens without merges; decoding gives back every text. The end token also pads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # the characters that ByteLevel writes bytes as
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
