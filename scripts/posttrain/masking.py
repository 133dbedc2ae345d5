"""From prompt and completion to ids and labels: what is learnt is the completion and its stop.

A row is made in one of two ways. Joint: the text prompt + completion is tokenized once, and cut
where the tokens' character offsets reach the completion. Split: where the joint tokens do not
begin with the prompt's own, or one of the others reaches back into the prompt, the row is the
prompt's own tokens and then the completion's own. Inference feeds the prompt's own tokens and
lets the model go on, so either way trains what inference does.

No row is trusted for the way it was made: `check` proves each one, and from three sides, because
each alone has been fooled. A count of tokens made apart need not hold in the joint text; offsets
can be trimmed of their spaces; decoding the supervised span alone hides a leading space.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from posttrain.errors import MaskError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

IGNORE = -100  # the label that torch's cross_entropy and transformers leave out
ROWS_AT_ONCE = 1000  # bounds memory; no result depends on it
ROWS_SHOWN = 5
STATISTICS = (
    "id",
    "tokens",
    "supervised_tokens",
    "truncated",
    "dropped",
    "split",
    "reason",
)
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can hold it, UTF-8 cannot


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: `input_ids` and `labels` of one length, IGNORE where a label is masked.

    `split` is True where the tokens of prompt and completion had to be made apart.
    """

    input_ids: list[int]
    labels: list[int]
    split: bool = False

    @property
    def supervised(self) -> int:
        """Number of tokens that are learnt, the stop token among them."""
        return sum(label != IGNORE for label in self.labels)


class RowTooLong(MaskError):
    """A sound row with more tokens than `max_length`: trained cut, it would never stop."""

    def __init__(self, tokens: int, max_length: int) -> None:
        super().__init__(f"{tokens} tokens, but max_length is {max_length}: its end would be cut")
        self.tokens = tokens


def prompt_ids(
    tokenizer: "PreTrainedTokenizerFast", prompt: str, add_special_tokens: bool
) -> list[int]:
    """Return the ids that inference feeds the model for `prompt`, and that training masks.

    Specials that the tokenizer's post-processor puts in front (BOS) are kept, those that it
    appends (EOS) are not: a prompt that ended in EOS would be over before it began.

    Args: add_special_tokens False for text from a chat template, which holds its specials.
    Raises: MaskError if the prompt has no token, is not text or spells out a special token.
    """
    reader = _Reader(tokenizer, add_special_tokens)
    [own] = reader.tokens([prompt], add_special_tokens)
    _check_prompt(reader, prompt, own)
    return own.ids


def special_tokens_in(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[str]:
    """Return the special tokens that `text` spells out, such as '<|im_end|>' in a question.

    Ask it of what goes into a chat template; once rendered they look like the template's own.
    """
    reader = _Reader(tokenizer, add_special_tokens=False)
    [tokens] = reader.tokens([text], add_special_tokens=False)
    return reader.specials_in(tokens.ids, text)


def encode(
    tokenizer: "PreTrainedTokenizerFast",
    prompt: str,
    completion: str,
    max_length: int,
    add_special_tokens: bool = True,
) -> Row:
    """Tokenize one row so that exactly `completion` and the stop token are supervised.

    Raises: MaskError if the row breaks the contract of `check`, RowTooLong if it is sound but
        longer than `max_length`. The message does not know the row's id.
    """
    [row] = _encode(_Reader(tokenizer, add_special_tokens), [(prompt, completion)], max_length)
    if isinstance(row, MaskError):
        raise row
    return row


def check(
    tokenizer: "PreTrainedTokenizerFast",
    row: Row,
    prompt: str,
    completion: str,
    add_special_tokens: bool = True,
) -> None:
    """Prove the mask contract for a row, whoever made it.

    1. Labels are IGNORE up to one place, and from there on the ids themselves.
    2. The masked ids are `prompt_ids`, one by one.
    3. The supervised ids end in the stop token; before it stands at least one other and no
       special one.
    4. Decoded together with the prompt they give the prompt and then `completion`, character by
       character: nothing is altered by a normaliser, dropped or unknown.
    5. They are the tokenizer's own tokens for this text; their offsets reach into no character
       of the prompt and cover each of `completion`, and no masked token's reaches into that.
       (Spaces aside: some offsets are trimmed of them, some tokens swallow their neighbour's,
       and 4 has proved them.)

    Raises: MaskError that names the first fault.
    """
    reader = _Reader(tokenizer, add_special_tokens)
    [source] = reader.sources([(prompt, completion)])
    _check(reader, row, source)


def encode_all(
    tokenizer: "PreTrainedTokenizerFast",
    rows: Iterable[tuple[str, str, str]],
    max_length: int,
    add_special_tokens: bool,
    bad_rows: Literal["refuse", "drop"],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tokenize all `rows` of (row id, prompt, completion).

    Returns: the rows to train on, {id, input_ids, labels}, and one record for each row given,
        {id, tokens, supervised_tokens, truncated, dropped, split, reason}, where truncated,
        dropped and split are 0 or 1. A row longer than `max_length` is not trained and counts
        as truncated; a row whose text is at fault counts 0 tokens.
    Raises: MaskError if there is a bad row and `bad_rows` is "refuse", or if no row is left.
    """
    if bad_rows not in ("refuse", "drop"):
        raise ValueError(f"bad_rows is {bad_rows!r}, not 'refuse' or 'drop'")
    reader = _Reader(tokenizer, add_special_tokens)
    kept: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    rows = iter(rows)
    while part := list(islice(rows, ROWS_AT_ONCE)):
        made = _encode(reader, [(prompt, completion) for _, prompt, completion in part], max_length)
        for (row_id, _, _), row in zip(part, made, strict=True):
            records.append(_record(row_id, row))
            if isinstance(row, Row):
                kept.append({"id": row_id, "input_ids": row.input_ids, "labels": row.labels})
    if not kept or (bad_rows == "refuse" and len(kept) < len(records)):
        raise MaskError(_refusal(records))
    return kept, records


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Ids and the characters (start, end) of each, without what a post-processor appends.

    The first `front` ids are the specials that it puts in front; they stand for no character.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    front: int


@dataclass(frozen=True, slots=True)
class _Source:
    """What a row is made of: two texts, the tokens of both as one, and those of the prompt."""

    prompt: str
    completion: str
    joint: _Tokens
    own: _Tokens


class _Reader:
    """A tokenizer with what the contract asks of it; made once for many rows."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", add_special_tokens: bool) -> None:
        name = type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise MaskError(
                f"the tokenizer, a {name}, gives no character offsets:"
                " use a model folder with a tokenizer.json"
            )
        if tokenizer.eos_token_id is None:
            raise MaskError(
                f"the tokenizer, a {name}, names no stop token:"
                " write eos_token into its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.stop: int = tokenizer.eos_token_id
        # Both, because each knows some that the other does not.
        added = tokenizer.added_tokens_decoder
        self.specials = {*tokenizer.all_special_ids, *(i for i in added if added[i].special)}

    def tokens(self, texts: Sequence[str], add_special_tokens: bool) -> list[_Tokens]:
        """Tokenize each text, whole."""
        batch = self.tokenizer(
            [SURROGATE.sub("\ufffd", text) for text in texts],  # the checks refuse such a row
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            verbose=False,  # no warning that a row is long: max_length refuses it
        )
        return [_without_appended(encoding) for encoding in batch.encodings]

    def sources(self, pairs: Sequence[tuple[str, str]]) -> list[_Source]:
        """Tokenize each (prompt, completion) as one text, and each prompt as inference does."""
        joint = self.tokens([prompt + rest for prompt, rest in pairs], self.add_special_tokens)
        own = self.tokens([prompt for prompt, _ in pairs], self.add_special_tokens)
        return [
            _Source(prompt, rest, whole, alone)
            for (prompt, rest), whole, alone in zip(pairs, joint, own, strict=True)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """Decode, with nothing left out and nothing tidied up."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def name(self, token: int) -> str:
        """Return a token as the vocabulary spells it, in quotes."""
        return repr(self.tokenizer.convert_ids_to_tokens(token))

    def specials_in(self, ids: Sequence[int], text: str) -> list[str]:
        """Return the special tokens among the ids of `text`, but not what is merely unknown."""
        if self.specials.isdisjoint(ids):
            return []
        names = self.tokenizer.convert_ids_to_tokens([i for i in ids if i in self.specials])
        return [name for name in names if name != self.tokenizer.unk_token or name in text]


def _without_appended(encoding: "Encoding") -> _Tokens:
    ids, added = encoding.ids, encoding.special_tokens_mask  # 1 only for the post-processor's own
    end = len(ids)
    while end and added[end - 1]:
        end -= 1
    front = next((i for i in range(end) if not added[i]), end)
    return _Tokens(ids[:end], encoding.offsets[:end], front)


def _encode(
    reader: _Reader, pairs: Sequence[tuple[str, str]], max_length: int
) -> Iterator[Row | MaskError]:
    """Make and prove a row of each (prompt, completion); a fault takes the place of its row."""
    for source in reader.sources(pairs):
        try:
            row = _row(reader, source)
            _check(reader, row, source)
            if len(row.input_ids) > max_length:
                raise RowTooLong(len(row.input_ids), max_length)
            yield row
        except MaskError as fault:
            yield fault


def _row(reader: _Reader, source: _Source) -> Row:
    boundary, own, ids = len(source.prompt), source.own.ids, source.joint.ids
    first = len(own)
    reaches_back = any(start < boundary for start, _ in source.joint.spans[first:])
    is_split = ids[:first] != own or reaches_back
    if is_split:
        [apart] = reader.tokens([source.completion], add_special_tokens=False)
        ids = own + apart.ids
    # The stop is labelled by its place, not by its id: where pad is eos, it would go unlearnt.
    ids = [*ids, reader.stop]
    return Row(ids, [IGNORE] * first + ids[first:], is_split)


def _check(reader: _Reader, row: Row, source: _Source) -> None:
    """Prove what the docstring of `check` promises; the numbers are its."""
    _check_prompt(reader, source.prompt, source.own)
    first = _check_labels(reader, row)  # 1
    _check_prefix(reader, row.input_ids[:first], source.own.ids)  # 2
    _check_supervised(reader, row.input_ids[first:], source.completion)  # 3
    _check_text(reader, row.input_ids, first, source)  # 4
    _check_offsets(reader, row.input_ids, first, source)  # 5


def _check_prompt(reader: _Reader, prompt: str, own: _Tokens) -> None:
    if SURROGATE.search(prompt):
        raise MaskError("the prompt holds half a character (a lone surrogate)")
    if len(own.ids) == own.front:
        raise MaskError("the prompt has no token: the completion would answer nothing")
    typed = reader.specials_in(own.ids[own.front :], prompt)
    if typed and reader.add_special_tokens:
        raise MaskError(
            f"the prompt spells out the special token {typed[0]!r}: take it out of the text"
            " (text from a chat template is tokenized with add_special_tokens=False)"
        )


def _check_labels(reader: _Reader, row: Row) -> int:
    """Return the place of the first supervised token."""
    ids, labels = row.input_ids, row.labels
    if len(ids) != len(labels):
        raise MaskError(f"{len(ids)} input ids, but {len(labels)} labels")
    first = next((i for i, label in enumerate(labels) if label != IGNORE), None)
    if first is None:
        raise MaskError("no token is supervised: every label is masked")
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if place < first or label == token:
            continue
        if label != IGNORE:
            raise MaskError(f"token {place}, {reader.name(token)}, has another's label, {label}")
        what = "stop token" if token == reader.stop and place == len(ids) - 1 else "token"
        raise MaskError(
            f"the {what} {reader.name(token)} at {place} is masked, though it comes after the"
            " prompt: mask by place, never by the pad id"
        )
    return first


def _check_prefix(reader: _Reader, masked: list[int], own: list[int]) -> None:
    if masked == own:
        return
    place = _common(masked, own)
    fed, had = (
        reader.name(ids[place]) if place < len(ids) else "nothing more" for ids in (own, masked)
    )
    raise MaskError(
        "the masked tokens are not the prompt that inference feeds:"
        f" at {place} it feeds {fed}, the row masks {had}"
    )


def _check_supervised(reader: _Reader, supervised: list[int], completion: str) -> None:
    *learnt, last = supervised
    if last != reader.stop:
        raise MaskError(
            f"the row ends in {reader.name(last)}, not in the stop token"
            f" {reader.name(reader.stop)}: it is cut off, and the model would never learn to stop"
        )
    if not learnt:
        raise MaskError("only the stop token is supervised: the completion is empty")
    if typed := reader.specials_in(learnt, completion):
        raise MaskError(
            f"the completion spells out the special token {typed[0]!r}: take it out of the text"
        )


def _check_text(reader: _Reader, ids: list[int], first: int, source: _Source) -> None:
    before, whole, completion = reader.text(ids[:first]), reader.text(ids[:-1]), source.completion
    if whole == before + completion:
        return
    learnt = whole.removeprefix(before)
    at = _common(learnt, completion)
    near = slice(max(0, at - 8), at + 8)
    fault = f"{completion[near]!r} in the completion would be learnt as {learnt[near]!r}: "
    if learnt.lstrip() != completion.lstrip():
        raise MaskError(fault + "the tokenizer alters, drops or does not know some of it")
    joint = source.joint.ids
    token = next(iter(joint[_common(joint, source.own.ids) :]), reader.stop)
    instead = "end the prompt in a full word and begin the completion with a space"
    if not reader.add_special_tokens:  # a chat's prompt ends as its template has it
        instead += " (it ends so by the model's chat template: mend that, or use another model)"
    raise MaskError(
        f"{fault}the token {reader.name(token)} stands at the boundary of the prompt,"
        f" {source.prompt[-8:]!r}, and the completion and cannot be parted there: {instead}"
    )


def _check_offsets(reader: _Reader, ids: list[int], first: int, source: _Source) -> None:
    boundary, text = len(source.prompt), source.prompt + source.completion
    spans = source.joint.spans
    if ids[:-1] != source.joint.ids:
        [apart] = reader.tokens([source.completion], add_special_tokens=False)
        if ids[:-1] != source.own.ids + apart.ids:
            raise MaskError("the tokens are not those that the tokenizer makes of this text")
        spans = source.own.spans + [(boundary + a, boundary + b) for a, b in apart.spans]
    covered: set[int] = set()
    for place in range(source.own.front, len(spans)):
        start, end = spans[place]
        if place < first and text[boundary:end].strip():
            raise MaskError(f"the masked {reader.name(ids[place])} reaches into the completion")
        if place >= first and start < boundary:
            raise MaskError(f"the supervised {reader.name(ids[place])} reaches into the prompt")
        covered.update(range(start, end))
    missing = [i for i in range(boundary, len(text)) if i not in covered and not text[i].isspace()]
    if missing:
        raise MaskError(f"no supervised token stands for {text[missing[0]]!r} of the completion")


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many items the two have in common before they first differ."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _record(row_id: str, row: Row | MaskError) -> dict[str, Any]:
    is_bad = isinstance(row, MaskError)
    tokens = getattr(row, "tokens", 0) if is_bad else len(row.input_ids)
    return {
        "id": row_id,
        "tokens": tokens,
        "supervised_tokens": 0 if is_bad else row.supervised,
        "truncated": int(isinstance(row, RowTooLong)),
        "dropped": int(is_bad),
        "split": 0 if is_bad else int(row.split),
        "reason": str(row) if is_bad else "",
    }


def _refusal(records: list[dict[str, Any]]) -> str:
    bad = [record for record in records if record["dropped"]]
    if not bad:
        return "there is no row to tokenize"
    lines = [f"{len(bad)} of {len(records)} rows cannot be trained as they are:"]
    lines += [f"  row {record['id']}: {record['reason']}" for record in bad[:ROWS_SHOWN]]
    if len(bad) > ROWS_SHOWN:
        lines.append(f"  and {len(bad) - ROWS_SHOWN} more")
    if any(record["truncated"] for record in bad):
        longest = max(record["tokens"] for record in bad)
        lines.append(f"write max_length: {longest} to hold the longest of them")
    if len(bad) < len(records):
        lines.append("write bad_rows: drop (under sft or rft) to train without them, counted")
    return "\n".join(lines)
