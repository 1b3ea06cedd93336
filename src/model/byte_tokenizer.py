"""A tokenizer that is made on the spot: a token a byte, and an end token. It needs no file, and loses nothing."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NAME = "bytes://"  # as `model.tokenizer`
END = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """The 256 bytes as tokens 0 to 255, and the end token as 256."""
    # The letters by which byte-level tokenizers write bytes (GPT-2, Radford et al. 2019).
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
