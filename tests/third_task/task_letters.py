"""A task of the tests: letters of two words counted, answered in brackets; see `tasks.Task`."""

import itertools
import random
import re

from posttrain.answers import expect, tried
from posttrain.errors import QuestionError

BEFORE, AFTER, JOINT = "[[", "]]", " "
ASKED = "How many letters have {} and {}?"
EXAMPLE = (ASKED.format("straw", "berry"), 10, "5 + 5 = 10. [[10]]")
COLUMNS = ("words",)
GROUPS = ("all", "category", "words_met", "held_out")
WORDS = {"words_met": {"no": "a word never in training", "yes": "both words in training"}}
ROUNDING = 1e-9
SHORTEST = 5
ALPHABET = "abcdefghijklmnop"


def _drawn(rng):
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 9))) for _ in range(2)]


def _fact(words):
    return "{} + {}".format(*sorted(map(len, words)))


def held_out(seed, share):
    facts = {_fact(("a" * n, "a" * m)) for n in range(1, 10) for m in range(1, 10)}
    return frozenset(random.Random(seed).sample(sorted(facts), round(share * len(facts))))


def held_out_teller(seed, share, asked):
    kept_out = held_out(seed, share)
    return lambda path: any(equation.partition(" = ")[0] in kept_out for equation in path)


def questions(seed, train_size, valid_size, kept_out):
    rng, seen, splits = random.Random(seed), set(), {}
    for split, size in (("train", train_size), ("valid", valid_size)):
        rows = splits[split] = []
        while len(rows) < size:
            words = _drawn(rng)
            question, answer = ASKED.format(*words), float(sum(map(len, words)))
            if question not in seen and (split == "valid" or _fact(words) not in kept_out):
                seen.add(question)
                row = {"id": f"{split}-{len(rows) + 1:04d}", "question": question, "answer": answer}
                rows.append(row | about(question, answer))
    return splits


def about(question, answer):
    if answer % 1:
        raise QuestionError(f"the answer {answer!r} is no count of letters")
    found = re.fullmatch(r"How many letters have ([a-z]+) and ([a-z]+)\?", question)
    if not found:
        return {"category": None, "words": None}
    return {"category": "long" if answer > 9 else "short", "words": " ".join(found.groups())}


def kinds(asked, trained, kept_out):
    known = {word for row in trained for word in (row["words"] or "").split()}
    for row in asked:
        found = {"all": "all", "category": row["category"] or "not stated"}
        if row["words"]:
            words = row["words"].split()
            found["words_met"] = "yes" if known.issuperset(words) else "no"
            if kept_out is not None:
                found["held_out"] = "yes" if _fact(words) in kept_out else "no"
        yield found


def parse(completion):
    found = re.search(r"\[\[([0-9]{1,3})\]\]", completion)
    return float(found[1]) if found else None


def is_correct(answer, gold, tolerances):
    return answer == gold


def slips(question):
    if question["words"] is None:
        return {}
    first, second = question["words"].split()
    return {"the first word alone": len(first), "the second word alone": len(second)}


def written(answer, digits):
    return str(int(answer))


def self_test(judge, golds, digits):
    for gold in (0.0, 12.0, *tried(golds)):
        text = written(gold, digits)
        expect(judge, f"1 + 1 = 2. [[{text}]]", gold, True, "the answer itself")
        for fault in (text, f"[[{text}", f"[[{text} letters]]", f"[[{written(gold + 1, digits)}]]"):
            expect(judge, fault, gold, False, "another text")


def unit_of(name):
    return ()


def documents(seed, kept_out):
    rng = random.Random(f"letters {seed}")
    for number in itertools.count():
        words = _drawn(rng)
        first, second = map(len, words)
        if _fact(words) not in kept_out:
            worked = f"Reasoning: {first} + {second} = {first + second}. "
            began = f"Question: Count {words[0]} and {words[1]}.\n"
            yield f"{began}{worked if number % 2 else 'Answer: '}[[{first + second}]]"
