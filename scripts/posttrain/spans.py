"""A tokenized row for a person to look at: cut into what is masked, what is learnt, what stops."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.masking import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.masking import Row

ANSI = {"masked": "\033[2m", "learnt": "\033[32m", "stop": "\033[1;7;32m"}
VISIBLE = {" ": "·", "\n": "↵", "\t": "→"}


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens in a row that are all `masked` or all `learnt`, or the one that is learnt to `stop`.

    pieces: the text that each adds; a dot is a space, an arrow a line's end.
    """

    kind: Literal["masked", "learnt", "stop"]
    ids: list[int]
    pieces: list[str]


def cut(tokenizer: "PreTrainedTokenizerFast", row: "Row") -> list[Span]:
    """Return a row cut where it goes from masked to learnt, or back, and before its stop token.

    Labels are taken as they are: a stop token that is masked stands under `masked`.
    """
    kinds = ["masked" if label == IGNORE else "learnt" for label in row.labels]
    if kinds[-1] == "learnt" and row.input_ids[-1] == tokenizer.eos_token_id:
        kinds[-1] = "stop"
    pieces = _pieces(tokenizer, row.input_ids)
    found: list[Span] = []
    for kind, token, piece in zip(kinds, row.input_ids, pieces, strict=True):
        if not found or found[-1].kind != kind:
            found.append(Span(kind, [], []))
        found[-1].ids.append(token)
        found[-1].pieces.append(piece)
    return found


def view(tokenizer: "PreTrainedTokenizerFast", row: "Row", colour: bool = True) -> str:
    """Show a person the spans of a row, with the ids; tokens are parted by │."""
    lines = []
    for span in cut(tokenizer, row):
        text = "│".join(span.pieces)
        text = f"{ANSI[span.kind]}{text}\033[0m" if colour else text
        lines.append(f"{span.kind:6} {len(span.ids):4}  {text}")
        lines.append(f"{'':11}  {' '.join(map(str, span.ids))}")
    return "\n".join(lines)


def _pieces(tokenizer: "PreTrainedTokenizerFast", ids: list[int]) -> list[str]:
    """Return the text that each token adds; the vocabulary's spelling where it is part of one."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(
            ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        piece = whole[len(before) :]
        if not piece or not whole.startswith(before) or "\ufffd" in piece:
            piece = repr(tokenizer.convert_ids_to_tokens(ids[end - 1]))[1:-1]
        pieces.append("".join(map(_visible, piece)))
        before = whole
    return pieces


def _visible(char: str) -> str:
    return VISIBLE.get(char, char if char.isprintable() else repr(char)[1:-1])
