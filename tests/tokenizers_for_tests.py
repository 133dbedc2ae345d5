"""Small tokenizers of every kind that the mask contract must hold for, trained in process.

Each comes with `spell`, which says what bytes an id stands for without asking the tokenizer to
decode: the table is written down here, so that a test does not judge the decoder by itself.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    f"Question: How many {small} are there per {n} {big}?\n{word}: {tail}"
    for n, small, big in [(6, "gram", "kg"), (12, "km", "miles"), (3, "µm", "metre")]
    for word, tail in [
        ("Answer", f"<answer>{n}000</answer>"),
        ("Answer", f"<answer>{n}e+5</answer>"),
        ("Reasoning", f"1 {big} = 1000 {small}. {n} * 1000 = {n}000. <answer>-{n}.5</answer>"),
    ]
] * 4
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
PLAIN = {*range(33, 127), *range(161, 173), *range(174, 256)}  # bytes that stand for themselves
MOVED = [byte for byte in range(256) if byte not in PLAIN]
BYTE_OF = {chr(b): b for b in PLAIN} | {chr(256 + n): b for n, b in enumerate(MOVED)}


@dataclass(frozen=True)
class Kind:
    """A tokenizer, how it spells an id, and the ids that it puts before a text."""

    tokenizer: PreTrainedTokenizerFast
    spell: Callable[[int], bytes]
    front: tuple[int, ...] = ()


def byte_level_kind(tokenizer: PreTrainedTokenizerFast, front: tuple[int, ...] = ()) -> Kind:
    def spell(token: int) -> bytes:
        if token in tokenizer.added_tokens_decoder:
            return tokenizer.convert_ids_to_tokens(token).encode()
        return bytes(BYTE_OF[char] for char in tokenizer.convert_ids_to_tokens(token))

    return Kind(tokenizer, spell, front)


def sentencepiece_kind(tokenizer: PreTrainedTokenizerFast, front: tuple[int, ...] = ()) -> Kind:
    def spell(token: int) -> bytes:
        text = tokenizer.convert_ids_to_tokens(token)
        if re.fullmatch("<0x[0-9A-F]{2}>", text):
            return bytes([int(text[3:5], 16)])
        return text.replace("▁", " ").encode()

    return Kind(tokenizer, spell, front)


def _byte_level(
    add_prefix_space: bool = False,
    use_regex: bool = True,
    trim_offsets: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    template: str = "",
    answer_tokens: bool = True,
    vocab_size: int = 512,
) -> Kind:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if answer_tokens:
        tokenizer.add_tokens(["<answer>", "</answer>"])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    elif trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(add_prefix_space, trim_offsets=True)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    return byte_level_kind(wrapped, (0,) if template.startswith("<s>") else ())


def _sentencepiece(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
    normalizer: normalizers.Normalizer | None = None,
) -> Kind:
    """BPE over ▁-marked words with a byte for every unknown character, and <s> in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # Trained on words, as SentencePiece does, whatever cuts the text later.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *BYTE_TOKENS],
        limit_alphabet=80,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = parts["added_tokens"][:3]  # bytes are vocabulary, nothing special
    parts["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return sentencepiece_kind(wrapped, (1,))


def _unigram() -> Kind:
    """Unigram with Metaspace and no byte fallback: what it does not know is <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=list("+-=.,:?()%'°é½µ\n\t"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    return sentencepiece_kind(wrapped)


BUILDERS: dict[str, Callable[[], Kind]] = {
    "byte_level": _byte_level,
    "byte_level_trimmed_offsets": lambda: _byte_level(trim_offsets=True),
    "byte_level_prefix_space": lambda: _byte_level(True, trim_offsets=True, answer_tokens=False),
    "byte_level_bos_eos": lambda: _byte_level(template="<s> $A </s>"),
    "byte_level_eos": lambda: _byte_level(template="$A </s>"),
    "byte_level_merging": lambda: _byte_level(use_regex=False, answer_tokens=False, vocab_size=300),
    "byte_level_merging_trimmed": lambda: _byte_level(
        use_regex=False, trim_offsets=True, answer_tokens=False, vocab_size=300
    ),
    "byte_level_nfkc_lower": lambda: _byte_level(
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "byte_level_strip": lambda: _byte_level(normalizer=normalizers.Strip()),
    "metaspace_always": lambda: _sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace_first": lambda: _sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "metaspace_never": lambda: _sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="never")),
    "llama_normalizer": lambda: _sentencepiece(
        normalizer=normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")]
        )
    ),
    "unigram": _unigram,
}


@cache
def build(name: str) -> Kind:
    """Build the tokenizer of that name once a session; no test may change it."""
    return BUILDERS[name]()
