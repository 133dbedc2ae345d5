"""Every prompt and completion is written here, for training and for inference alike.

A model with a chat template is asked through it, any other with the plain text. Three styles:
`answer` wants the bare answer, `reasoning` wants the reasoning first, and `worked` is `reasoning`
after the worked examples of the config: it is how a base model is asked, which training then
replaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from posttrain import masking
from posttrain.errors import MaskError, PromptError
from posttrain.tasks import Task, answered, marks, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "Be brief."  # some system text, to see what a template writes where none is given
EXAMPLE_DIGITS = 15  # worked examples are shown as they are written
Style = Literal["answer", "reasoning", "worked"]


@dataclass(frozen=True)
class Prompt:
    """A prompt's text, and whether the tokenizer adds its special tokens (a chat holds its own)."""

    text: str
    add_special_tokens: bool


def completion(task: Task, answer: str, reasoning: str | None = None) -> str:
    """Return what a model is to write: the reasoning, if any, then the answer in its marks.

    Raises: PromptError if `answer` is none, or if `reasoning` gives one of its own: what follows it
        would be reasoning after the answer.
    """
    if task.parse(answered(task, answer)) is None or any(mark in answer for mark in marks(task)):
        example = answered(task, "42")
        raise PromptError(f"{answer!r} is no answer to train on; write one as in {example}")
    if reasoning is not None and any(mark in reasoning for mark in marks(task)):
        raise PromptError(
            f"the reasoning {reasoning[:200]!r} holds an answer of its own: reasoning would be "
            f"trained after the answer; leave {' and '.join(marks(task))} out of it"
        )
    return answered(task, answer, reasoning)


def joined(prompt: Prompt, text: str) -> str:
    """Return `text` as it continues `prompt`: after a space, unless the chat opened a turn."""
    return f" {text}" if prompt.add_special_tokens else text


def is_chat(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Tell whether the model is asked through a chat template."""
    return tokenizer.chat_template is not None


def render(
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    style: Style,
    prompts: Mapping[str, Any],
    task: Task,
) -> Prompt:
    """Return the prompt that asks `question` in `style`; `prompts` is that section of the config.

    Raises: PromptError if the question spells a special token, or if the model's chat template
        fails, has no place for the system message or leaves out a message.
    """
    wording = prompts["answer"] if style == "answer" else prompts["reasoning"]
    turns = [
        (
            wording.replace("{question}", shown["question"]),
            completion(task, task.written(shown["answer"], EXAMPLE_DIGITS), shown["reasoning"]),
        )
        for shown in (prompts["examples"] if style == "worked" else [])
    ]
    if spelt := masking.special_tokens_in(tokenizer, question):
        raise PromptError(
            f"the question {question!r} spells the model's special token {spelt[0]}, which would "
            "steer the model; leave it out of the question"
        )
    asked = wording.replace("{question}", question)
    if not is_chat(tokenizer):
        shown = "".join(f"{user} {reply}\n\n" for user, reply in turns)
        return Prompt(shown + asked, add_special_tokens=True)
    return Prompt(_chat(tokenizer, turns, asked, prompts["system"]), add_special_tokens=False)


def fed(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Mapping[str, Any]],
    style: Style,
    prompts: Mapping[str, Any],
    task: Task,
) -> list[tuple[str, list[int]]]:
    """Return, for each question, the text and the ids that a model is fed to be asked in `style`.

    Raises: PromptError or MaskError naming the question's id.
    """
    found = []
    for question in questions:
        try:
            prompt = render(tokenizer, question["question"], style, prompts, task)
            ids = masking.prompt_ids(tokenizer, prompt.text, prompt.add_special_tokens)
        except (PromptError, MaskError) as error:
            raise type(error)(f"question {question['id']}: {error}") from error
        found.append((prompt.text, ids))
    return found


def training_pair(
    tokenizer: "PreTrainedTokenizerBase",
    row: Mapping[str, Any],
    style: Style,
    recipe: Mapping[str, Any],
) -> tuple[str, str]:
    """Return the prompt and the completion that `row` is trained with.

    Args: row, a question with its answer as a number, or a kept rollout with `reasoning` and its
        answer as it was written; style, of which `answer` alone trains no reasoning; recipe, with
        `task`, `prompts` and `answer_digits`, the significant ones of an answer given as a number.
    Raises: PromptError naming the row.
    """
    answer, task = row["answer"], task_of(recipe["task"])
    reasoning = None if style == "answer" else row["reasoning"]
    try:
        is_text = isinstance(answer, str)
        written = answer if is_text else task.written(answer, recipe["answer_digits"])
        prompt = render(tokenizer, row["question"], style, recipe["prompts"], task)
        return prompt.text, joined(prompt, completion(task, written, reasoning))
    except PromptError as error:
        raise PromptError(f"row {row['id']}: {error}") from error


def _chat(
    tokenizer: "PreTrainedTokenizerBase",
    turns: list[tuple[str, str]],
    asked: str,
    system: str | None,
) -> str:
    """Render a chat in which every system word is ours, the same on every day.

    Without a system text an empty message stands in its place, since some templates put in one of
    their own where none is given; a template that knows no system role gets none, and one that
    puts in its own for an empty one too is refused.
    """
    if "strftime_now" in str(tokenizer.chat_template):
        raise PromptError(
            "the model's chat template writes today's date into its prompts, so no two days would "
            "ask alike; write a fixed date into the template in the model's folder"
        )
    chat = [
        message
        for user, reply in turns
        for message in (_says("user", user), _says("assistant", reply))
    ]
    chat.append(_says("user", asked))
    try:
        text = _templated(tokenizer, [_says("system", system or ""), *chat])
    except PromptError as error:
        text = _templated(tokenizer, chat)
        if system:
            raise PromptError(
                f"the model's chat template takes no system message ({error.__cause__}); write "
                "prompts: {system: null} and say it in prompts.answer and prompts.reasoning"
            ) from error
    else:
        given = text if system else _templated(tokenizer, [_says("system", MARK), *chat])
        without = given.replace(MARK, "")
        if own := [w for w in text.split() if w not in given and w not in without]:
            raise PromptError(
                f"the model's chat template puts in a system message of its own ({own[0]} ...) "
                "where none is given; write one: prompts: {system: Answer the question.}"
            )
    for message in [_says("system", system or ""), *chat]:
        if message["content"].strip() not in text:
            raise PromptError(
                f"the model's chat template leaves out the {message['role']} message "
                f"{message['content']!r}; set prompts.system to null or use another model"
            )
    return text


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _templated(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's, and raises what it likes
        raise PromptError(
            f"the model's chat template cannot render our messages: {error}; "
            "use a model whose template takes system, user and assistant turns"
        ) from error
