"""Training, sampling and pretraining against their peers, and the proof that all do the same."""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import limits
import memory
import peers
import table
import torch
from cases import BASE, Case
from torch.utils.flop_counter import FlopCounterMode

from posttrain import (
    adapters,
    artifacts,
    corpus,
    devices,
    models,
    pretraining,
    prompts,
    sampling,
    scoring,
    task_units,
    training,
)
from posttrain.masking import IGNORE
from posttrain.units import held_out

if TYPE_CHECKING:
    from peft import PeftModel

REPEATS = 5
# How far two losses of one step may lie apart, as a share: bfloat16 adds in another order.
LOSS_TOLERANCE = 0.05
GREEDY_PROMPTS = 32
GREEDY_EQUAL = 0.95  # share of float32 completions that must be equal: ties are broken by rounding
STANDARD_ERRORS = 4  # by which what two sides sampled may differ, in the mean


class UnequalWorkError(Exception):
    """Two sides that are compared did not do the same work."""


@contextmanager
def loop_clock(module: ModuleType) -> Iterator[list[float]]:
    """Take the seconds of a stage's loop, from before its first step to after the last.

    That is the life of its progress bar; what comes before and after is set-up, checks and proofs.
    """
    found: list[float] = []
    original = module.Progress

    class Clock(original):
        def __enter__(self) -> "Clock":
            self.start = time.perf_counter()
            return super().__enter__()

        def __exit__(self, *exc: object) -> None:
            super().__exit__(*exc)
            found.append(time.perf_counter() - self.start)

    module.Progress = Clock
    try:
        yield found
    finally:
        module.Progress = original


def train_rows(case: Case, config: Mapping[str, Any], stage: str = "sft") -> list[table.Row]:
    """Compare `training.fit` with both trainers, in supervised tokens a second.

    Args: stage, whose rows and settings: sft, bare answers, or rft, mostly reasoning.
    """
    benchmark = "train" if stage == "sft" else f"train_{stage}"
    count = case.batch_size * case.steps
    rows = artifacts.read_jsonl(f"results/tokenized/{stage}.jsonl")[:count]
    recipe = {
        key: config[stage][key] for key in ("lora", "learning_rate", "gradient_checkpointing")
    }
    recipe |= {"seed": config["seed"], "epochs": 1, "batch_size": case.batch_size}
    order = training.batches(len(rows), case.batch_size, 1, config["seed"])
    ordered = [rows[number] for _, numbers in order for number in numbers]
    device = devices.pick_device()
    dtype = devices.compute_dtype(device)
    given = peers.arguments(recipe, dtype, device)
    supervised = sum(label != IGNORE for row in rows for label in row["labels"][1:])
    curves: dict[str, list[float]] = {}
    whole = []

    def fresh() -> "PeftModel":
        return adapters.attach(copy.deepcopy(case.base), recipe["lora"], recipe["seed"])

    def ours() -> float:
        model = copy.deepcopy(case.base)
        start = time.perf_counter()
        with loop_clock(training) as seconds:
            trained = training.fit(model, rows, recipe, str(BASE))
        whole.append(time.perf_counter() - start)
        curves["ours"] = [line["loss"] for line in trained.history]
        return supervised / seconds[0]

    def rate(peer: str, found: peers.Training) -> float:
        if found.supervised != supervised:
            raise UnequalWorkError(f"{peer} supervises {found.supervised} tokens, not {supervised}")
        curves[peer] = found.losses
        return supervised / found.seconds

    def origin() -> float:
        return rate("origin", peers.train_as_origin(fresh(), ordered, given))

    def trl(setting: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> peers.Training:
        return peers.train_with_trl(fresh(), case.tokenizer, rows, given, **setting)

    few = ordered[: 2 * case.batch_size]
    setting, why_not = fastest(
        "trl", peers.TRL_SETTINGS, lambda setting: 1 / trl(setting, few).seconds
    )
    sides = {"ours": ours, "origin": origin, "limit": limits.gemm_gflops}
    if setting:
        sides["trl"] = lambda: rate("trl", trl(setting, ordered))
    found = table.interleaved(memory.as_alone(sides), REPEATS)
    tokens = sum(len(row["input_ids"]) for row in rows)
    pairs = sum(len(row["input_ids"]) ** 2 for row in rows)
    # Of a supervised token.
    work = limits.gflop(case.base, tokens, supervised, pairs, passes=2) / supervised
    size = f"{case.steps} steps of {case.batch_size} rows, {supervised} supervised tokens"
    how = {
        "origin": f"Trainer, rows padded to {peers.PADDED_TO}; our stage with all its checks takes "
        f"{statistics.median(whole):.3g} s",
        "trl": f"SFTTrainer, {described(setting)}" if setting else f"does not run: {why_not}",
    }
    rows_of_table = []
    for peer, text in how.items():
        note = f"{size}; {text}"
        if peer in found:
            gap = largest_gap(curves["ours"], curves[peer])
            note += f"; losses of a step at most {gap:.2%} apart"
        key = (benchmark, case.name, peer)
        unit = "supervised tokens/s"
        rows_of_table.append(table.row(key, unit, found["ours"], found.get(peer, ()), note))
    done = [rate * work for rate in found["ours"]]
    return [*rows_of_table, limit_row((benchmark, case.name), done, found["limit"])]


def largest_gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference of two loss curves, as a share of ours.

    Raises: UnequalWorkError if they are not of one length or lie apart.
    """
    if len(ours) != len(theirs):
        raise UnequalWorkError(f"{len(ours)} steps against {len(theirs)}")
    gap = max(abs(a - b) / a for a, b in zip(ours, theirs, strict=True))
    if gap > LOSS_TOLERANCE:
        raise UnequalWorkError(f"losses {gap:.1%} apart: {ours} against {theirs}")
    return gap


def described(setting: Mapping[str, Any]) -> str:
    """Return a peer's settings in words."""
    return ", ".join(f"{key} {value}" for key, value in setting.items())


def limit_row(
    key: tuple[str, str], ours: list[float], theirs: list[float], more: str = ""
) -> table.Row:
    """Return the row of a stage against the rate of a large product; its note ends with `more`."""
    dtype = str(devices.compute_dtype(devices.pick_device())).removeprefix("torch.")
    note = (
        f"the model's products, no padding; {dtype}, {torch.get_num_threads()} threads; "
        f"a copy moves {limits.copy_gigabytes():.3g} GB/s"
    )
    return table.row((*key, "limit"), "GFLOP/s", ours, theirs, note + more)


def sample_rows(case: Case, config: Mapping[str, Any]) -> list[table.Row]:
    """Compare `sampling.complete` with three ways to call transformers, in completions a second."""
    questions = artifacts.read_jsonl("results/questions/train.jsonl")[: case.sampled_prompts]
    asked = [
        ids
        for _, ids in prompts.fed(
            case.tokenizer, questions, "reasoning", config["prompts"], task_units
        )
    ]
    work = peers.Sampling(
        tokenizer=case.tokenizer,
        prompts=asked,
        samples=case.samples,
        max_new_tokens=case.max_new_tokens,
        temperature=config["rollouts"]["temperature"],
        stops=case.stops,
    )
    batch_size = config["rollouts"]["batch_size"]
    total = len(asked) * case.samples
    merged = devices.ready(copy.deepcopy(case.adapter).merge_and_unload())
    # Copies, as our sampling and continuous batching each leave their own attention in the model.
    plain, paged = copy.deepcopy(merged), copy.deepcopy(merged)
    unmerged = copy.deepcopy(case.adapter).to(merged.device).eval()
    peers.in_dtype_but_adapter(unmerged, merged.dtype)
    generator = torch.Generator(merged.device).manual_seed(config["seed"])
    written: dict[str, list[sampling.Completion]] = {}

    def ours() -> list[sampling.Completion]:
        found = sampling.complete(
            merged,
            case.tokenizer,
            asked,
            [case.samples] * len(asked),
            work.max_new_tokens,
            batch_size,
            task_units.AFTER,
            work.temperature,
            generator,
        )
        return list(itertools.chain.from_iterable(found))

    def origin() -> list[sampling.Completion]:
        return peers.generate(unmerged, work, peers.ORIGIN_PROMPTS, closes=False)

    def generate_best(work: peers.Sampling, at_once: int) -> list[sampling.Completion]:
        return peers.generate(plain, work, at_once, closes=True)

    def generate_batch(work: peers.Sampling, rows: int) -> list[sampling.Completion]:
        return peers.generate_batch(paged, work, rows)

    def timed(side: str, sample: Callable[..., list[sampling.Completion]], *given: Any) -> float:
        start = time.perf_counter()
        written[side] = sample(*given)
        return len(written[side]) / (time.perf_counter() - start)

    at_once, _ = fastest(
        "generate-best",
        list(peers.batch_sizes(total, case.samples)),
        lambda at_once: timed("generate-best", generate_best, work, at_once),
    )
    together, why_not = fastest(
        "generate-batch",
        [rows for rows in peers.BATCHED_ROWS if rows <= total],
        lambda rows: timed("generate-batch", generate_batch, work, rows),
    )
    how = {
        "origin": f"generate, at most {peers.ORIGIN_PROMPTS} prompts at once, adapter not merged",
        "generate-best": f"generate, merged, fastest at {at_once} prompts at once",
        "generate-batch": f"continuous batching, merged, fastest at {together} rows at once",
    }
    sides = {
        "ours": lambda: timed("ours", ours),
        "origin": lambda: timed("origin", origin),
        "generate-best": lambda: timed("generate-best", generate_best, work, at_once),
        "limit": limits.gemm_gflops,
    }
    if together:
        sides["generate-batch"] = lambda: timed("generate-batch", generate_batch, work, together)
    else:
        how["generate-batch"] = f"continuous batching does not run: {why_not}"
    found = table.interleaved(memory.as_alone(sides), REPEATS)
    greedy = replace(work, prompts=asked[:GREEDY_PROMPTS], samples=1, temperature=0.0)
    equal = greedy_equality(case, greedy, [peer for peer in how if peer in found])
    golds = [question["answer"] for question in questions for _ in range(case.samples)]
    rows_of_table = []
    for peer, text in how.items():
        note = f"{len(asked)} prompts x {case.samples}, up to {work.max_new_tokens} tokens; {text}"
        if peer in found:
            note += f"; greedy {equal[peer]:.0%} equal in float32; "
            note += same_statistics(written["ours"], written[peer], golds, config)
        key = ("sample", case.name, peer)
        unit = "completions/s"
        rows_of_table.append(table.row(key, unit, found["ours"], found.get(peer, ()), note))
    tokens = sum(one.tokens for one in written["ours"])
    read = sum(map(len, asked)) + tokens
    pairs = sum(len(ids) ** 2 for ids in asked)
    for place, one in enumerate(written["ours"]):
        before = len(asked[place // case.samples])
        pairs += sum(range(before + 1, before + 1 + one.tokens))
    # Of a completion.
    task = limits.gflop(merged, read, tokens + len(asked), pairs, passes=1) / total
    done = [rate * task for rate in found["ours"]]
    return [*rows_of_table, limit_row(("sample", case.name), done, found["limit"])]


def fastest(
    peer: str, settings: Sequence[Any], rate: Callable[[Any], float]
) -> tuple[Any | None, str]:
    """Return the setting of a peer with the highest rate, in one run of each after a warm-up.

    Where none runs it is None, and the text tells why the last one does not.
    """
    tried, why_not = [], ""
    for setting in [*settings[:1], *settings]:
        memory.leave_to_glibc()
        try:
            tried.append((rate(setting), setting))
            print(f"{peer}: {setting} {tried[-1][0]:.4g}", flush=True)
        except Exception as error:  # a peer that does not run here is a result, too
            why_not = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{peer}: {setting} {why_not}", flush=True)
    return (max(tried, key=lambda one: one[0])[1] if tried else None), why_not


def greedy_equality(case: Case, work: peers.Sampling, names: Sequence[str]) -> dict[str, float]:
    """Return the share of greedy float32 completions that each peer named writes as ours.

    Raises: UnequalWorkError if one writes too many others.
    """
    device = devices.pick_device()
    unmerged = copy.deepcopy(case.adapter).to(device)
    merged = copy.deepcopy(case.adapter).merge_and_unload().to(device)
    many = len(work.prompts)
    found = sampling.complete(
        copy.deepcopy(merged),
        case.tokenizer,
        work.prompts,
        [1] * many,
        work.max_new_tokens,
        many,
        task_units.AFTER,
    )
    ours = [completion for [completion] in found]
    calls = {
        "origin": lambda: peers.generate(unmerged, work, many, closes=False),
        "generate-best": lambda: peers.generate(merged, work, many, closes=True),
        "generate-batch": lambda: peers.generate_batch(merged, work, many),
    }
    shares = {}
    for peer in names:
        same = [mine == theirs for mine, theirs in zip(ours, calls[peer](), strict=True)]
        shares[peer] = sum(same) / many
        if shares[peer] < GREEDY_EQUAL:
            raise UnequalWorkError(f"{peer} writes {shares[peer]:.0%} of greedy texts as ours")
    return shares


def same_statistics(
    ours: Sequence[sampling.Completion],
    theirs: Sequence[sampling.Completion],
    golds: Sequence[float],
    config: Mapping[str, Any],
) -> str:
    """Return, in words, what both sides wrote at the same temperature.

    Raises: UnequalWorkError if the shares accepted, or ended before the limit, or the lengths, are
        so far apart that it cannot be chance.
    """
    if len(ours) != len(theirs):
        raise UnequalWorkError(f"{len(theirs)} completions, not {len(ours)}")

    def accepted(side: Sequence[sampling.Completion]) -> list[float]:
        verdicts = (
            scoring.judge(one, gold, config["evaluate"], task_units)["verdict"]
            for one, gold in zip(side, golds, strict=True)
        )
        return [float(verdict == "correct") for verdict in verdicts]

    measures = {
        "right": ("{:.1%}", accepted),
        "ended": ("{:.1%}", lambda side: [float(one.finish != "length") for one in side]),
        "tokens": ("{:.1f}", lambda side: [float(one.tokens) for one in side]),
    }
    words = []
    for name, (form, measure) in measures.items():
        both = [measure(side) for side in (ours, theirs)]
        a, b = map(statistics.fmean, both)
        error = (sum(map(statistics.pvariance, both)) / len(ours)) ** 0.5
        told = f"{name} {form.format(a)} against {form.format(b)}"
        if abs(a - b) > STANDARD_ERRORS * error:
            raise UnequalWorkError(told)
        words.append(told)
    return ", ".join(words)


def pretrain_rows(config: Mapping[str, Any]) -> list[table.Row]:
    """Compare pretraining of the embedded model with the machine's limit."""
    recipe = config["embedded"] | {"steps": 30}
    tokenizer = models.load_tokenizer(BASE)
    kept_out = held_out(config["data"]["held_out_seed"], config["data"]["held_out"])
    texts = corpus.documents(recipe["seed"], kept_out)
    needed = recipe["steps"] * recipe["rows_per_step"]
    packed = pretraining.packed_rows(tokenizer, texts, recipe["row_length"])
    rows = list(itertools.islice(packed, needed))
    tokens = needed * recipe["row_length"]
    torch.manual_seed(recipe["seed"])
    fresh = pretraining.build_model(recipe, tokenizer)
    work = limits.gflop(fresh, tokens, tokens, tokens * recipe["row_length"], passes=3)

    def ours() -> float:
        with loop_clock(pretraining) as seconds:
            pretraining.pretrain(copy.deepcopy(fresh), iter(rows), recipe)
        return work / seconds[0]

    with FlopCounterMode(display=False) as counter:
        pretraining.pretrain(copy.deepcopy(fresh), iter(rows), recipe | {"steps": 1})
    made = counter.get_total_flops() / 1e9 * recipe["steps"]
    more = f"; with all products that are made, Muon's too, {made / work:.2f} times as much"
    sides = {"ours": ours, "limit": limits.gemm_gflops}
    found = table.interleaved(memory.as_alone(sides), REPEATS)
    return [limit_row(("pretrain", "embedded"), found["ours"], found["limit"], more)]
