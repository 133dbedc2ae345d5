"""The pretraining text: nothing held out stands in it, no question's words, and it is all true."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tokenizers_for_tests import build
from units_for_tests import exact_ratio

from posttrain import answers, corpus, leaks, prompts, tags, task_units, tasks, traces, units

CONFIG = yaml.safe_load((Path(__file__).parent.parent / "config.yaml").read_text(encoding="utf-8"))
NUMBER = r"(?<![\w.^*])\d+(?:\.\d+)?(?!\w)"
NAMES = sorted((re.escape(name) for name in units.units_by_name()), key=len, reverse=True)
UNIT = rf"(?<![\w/^*])(?:{'|'.join(NAMES)})(?![\w/^*])"
PRODUCT = re.compile(rf"({NUMBER}) \* ({NUMBER})")
QUOTIENT = re.compile(r"\b\d+ / (\d+) = (\d+)(?!\.?\d)")  # of whole numbers
EQUATION = re.compile(rf"({NUMBER}) ({UNIT}) = ({NUMBER}) ({UNIT})")


@pytest.fixture(scope="module")
def kept_out():
    """A large share of all products, so that a hole in the text is met."""
    return units.held_out(seed=0, share=0.3)


@pytest.fixture(scope="module")
def documents(kept_out):
    return list(itertools.islice(corpus.documents(0, kept_out), 20_000))


@pytest.fixture(scope="module")
def careless():
    """The text of a writer that holds nothing out, on which each check must find faults."""
    return list(itertools.islice(corpus.documents(0, frozenset()), 5_000))


def written(value):
    """Return a number as the text is to write it."""
    return answers.formatted(float(value), 4)


def split(document):
    """Return a document's question, reasoning and answer; a statement is all question."""
    match = re.fullmatch(
        r"Question: (.*)\n(?:Reasoning: (.*)|Answer:) <answer>(.*)</answer>", document
    )
    return match.groups() if match else (document, None, None)


def units_in(question):
    """Return the meanings of each unit that a document names, in order."""
    names = re.findall(UNIT, question)
    while len(names) > 2 and "in" in names:
        names.remove("in")  # the word, not the inch
    return [units.units_by_name()[name] for name in names]


def met_products(document):
    """Return the pairs of numbers that are multiplied in a document; 8 / 4 = 2 is one too."""
    found = PRODUCT.findall(document) + QUOTIENT.findall(document)
    return {tuple(sorted(pair)) for pair in found}


def met_conversions(document):
    """Return the conversions a document states, each as {(number, unit), (number, unit)}.

    Where the text does not say which number is of which unit, both ways: one of them is untrue and
    no question asks for it.
    """
    meanings = units.units_by_name()
    question, reasoning, answer = split(document)
    stated = [
        ((n, a), (m, b))
        for n, one, m, other in EQUATION.findall(reasoning or "")
        for a in meanings[one]
        for b in meanings[other]
    ]
    numbers = re.findall(NUMBER, question) + ([answer] if answer else [])
    named = units_in(question)
    if len(numbers) == len(named) == 2:
        for a, b in itertools.product(*named):
            stated += [((numbers[0], a), (numbers[1], b)), ((numbers[0], b), (numbers[1], a))]
    return {frozenset(pair) for pair in stated}


def unseen_conversions(kept_out):
    """Return the conversions that validation alone may ask for, as `met_conversions` does."""
    return {
        frozenset({(str(n), one), (written(n * exact_ratio(one, other)), other)})
        for one, other in units.ratios()
        for n in units.QUANTITIES
        if units.product_key(units.ratios()[one, other], n) in kept_out
    }


def test_no_held_out_product_is_multiplied(documents, careless, kept_out):
    met = set().union(*map(met_products, documents))
    assert len(met) > 5_000
    assert not met & kept_out
    assert set().union(*map(met_products, careless)) & kept_out, "this test sees no fault"


def test_no_number_tells_a_held_out_product_by_its_digits(documents, careless, kept_out):
    """As 9 * 1.6 would tell what 9 * 16 is; between two units it is another question's product."""

    def met(texts):
        return {
            (float(one), float(other)) for text in texts for one, other in PRODUCT.findall(text)
        }

    factors = {float(written(ratio)) for ratio in units.ratios().values()}
    told = {
        (float(other), float(one) * 10**shift)
        for key in kept_out
        for one, other in (key, key[::-1])
        if float(other) in units.QUANTITIES
        for shift in range(-5, 5)
    }
    strange = {(n, factor) for n, factor in told if float(written(factor)) not in factors}
    strange = {(n, float(written(factor))) for n, factor in strange}
    assert not strange & met(documents)
    assert strange & met(careless), "this test sees no fault"


def test_no_held_out_conversion_is_stated(documents, careless, kept_out):
    unseen = unseen_conversions(kept_out)
    said = [document for document in documents if "*" not in document.replace("**", "")]
    assert sum(bool(met_conversions(document)) for document in said) > 0.99 * len(said)
    assert not unseen & set().union(*map(met_conversions, documents))
    assert unseen & set().union(*map(met_conversions, careless)), "this test sees no fault"


def test_no_phrasing_is_a_questions(documents, kept_out):
    def words(phrasing):
        return " ".join(re.sub(r"[^\w{} ]", " ", phrasing.casefold()).split())

    assert len(set(corpus.PHRASINGS)) == len(corpus.PHRASINGS)
    assert not set(map(words, corpus.PHRASINGS)) & set(map(words, units.PHRASINGS))

    valid = units.questions(0, 1000, 1000, kept_out)["valid"]
    assert leaks.found(valid, questions={}, texts={"pretraining": documents}) == []
    planted = [*documents, f"Question: {valid[7]['question'].upper()}\nAnswer:"]
    [leak] = leaks.found(valid, questions={}, texts={"pretraining": planted})
    assert leak == {"id": "valid-0008", "where": "pretraining", "how": "normalised"}


def test_no_phrasing_holds_a_questions_words_whatever_the_units():
    """Statements too; asked of the phrasings themselves, so that no draw can miss one."""
    fields = {"n": 7, "a": "pounds", "b": "grams", "r": 3175}
    texts = [text.format(**fields) for text in corpus.PHRASINGS + corpus.STATEMENTS]
    rows = [{"id": p, "question": p.format(**fields)} for p in units.PHRASINGS]
    assert leaks.found(rows, questions={}, texts={"pretraining": texts}) == []


def test_the_formats_are_those_of_the_default_prompts():
    """What the model is pretrained to continue is, to the letter, what the stages ask of it."""
    plain = build("byte_level").tokenizer
    recipe = {"task": "units", "prompts": CONFIG["prompts"]}
    recipe |= {"answer_digits": CONFIG["sft"]["answer_digits"]}
    fields = {"question": "7 km/h to m/s", "reasoning": "7 / 3.6 = 1.944.", "answer": "1.944"}
    for style, wording in (("answer", corpus.ANSWER), ("reasoning", corpus.REASONING)):
        prompt, completion = prompts.training_pair(plain, fields, style, recipe)
        assert prompt + completion == wording.format(**fields)
    assert CONFIG["sft"]["answer_digits"] == units.DIGITS


def test_every_step_and_every_answer_is_right(documents):
    kinds = Counter()
    for document in documents[:6_000]:
        question, reasoning, answer = split(document)
        text = question if answer is None else (reasoning or "")
        verdicts = {equation.verdict for equation in traces.equations(text, units.unit_of)}
        assert verdicts <= {"right"}, document
        if answer is None:
            kinds["product" if " * " in question else "statement"] += 1
            continue
        assert bool(verdicts) == (reasoning is not None), document
        kinds["worked" if reasoning else "answer"] += 1
        assert is_a_conversion(question, answer), document
        assert tags.parse(document) == float(answer)
    assert all(kinds[kind] > 0.5 * share * 6_000 for kind, share in corpus.SHARES.items())


def is_a_conversion(question, answer):
    """Tell whether some reading of the units makes the answer right, by the definitions."""
    [n] = re.findall(NUMBER, question)
    return answer in {
        written(int(n) * exact_ratio(one, other))
        for a, b in itertools.permutations(units_in(question), 2)
        for one, other in itertools.product(a, b)
        if units.UNITS[one].domain == units.UNITS[other].domain
    }


def test_the_text_is_the_same_for_the_same_seed_and_empty_for_another_model(documents, kept_out):
    assert list(itertools.islice(corpus.documents(0, kept_out), 100)) == documents[:100]
    assert list(itertools.islice(corpus.documents(1, kept_out), 100)) != documents[:100]
    budget = {"seed": 0, "steps": 10, "rows_per_step": 4, "row_length": 64}
    data = {"held_out_seed": 0, "held_out": 0.3}
    recipe = {"data": data, "text_seed": budget["seed"], **budget}
    met = list(tasks.text_read(task_units, recipe))
    assert met == documents[: len(met)]
    assert sum(len(text.encode()) for text in met) >= 10 * 4 * 64
    assert list(tasks.text_read(task_units, {"data": data})) == []
