"""A tokenizer that needs no files, with one token for each UTF-8 byte and one for the end of a text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NAME = "bytes://"  # as model.tokenizer
END = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of 257 tokens without merges, which can decode every text. The end token is also the padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # the characters that stand for bytes in ByteLevel
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
