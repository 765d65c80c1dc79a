"""Answers equal Python's, splits are disjoint, padding changes no result."""

import re
import time
from collections import Counter

import numpy as np
import pytest

from gatecore import ModelSpec, backends
from gatecore.tasks import Config
from gatecore.tasks.problems.base import Stream, generator
from gatecore.tasks.problems.programs.grammars import GRAMMARS
from gatecore.tasks.problems.programs.task import Programs
from gatecore.tasks.training.config import ConfigError

KINDS = [(grammar, category) for grammar, g in GRAMMARS.items() for category in g.categories]
LEVELS = [(length, nesting) for length in (1, 2, 5, 9) for nesting in (1, 2, 4)]


def task_of(grammar, category, **settings):
    return Programs(grammar=grammar, category=category, **settings)


def examples(task, count, stream=Stream.TRAIN, seed=0, step=0):
    return task.examples(generator(seed, stream, step), count, stream, step)


def run_loop(value, times, step):
    for _ in range(times):
        value += step
    return value


def printed_by_python(grammar, length, programs):
    """The output of programs in Python, after translating their text."""
    if grammar == "zaremba":
        printed = []
        for program in programs:
            source = program.replace("#", "\n").replace("@", "")
            exec(source, {"print": printed.append})  # noqa: S102
        return [f"{value}." for value in printed]
    found = []
    for program in programs:
        python = re.sub(r"for\[(\d)\]x\+=(\d+)", r",\1,\2)", program).replace("x=", "loop(")
        python = python.replace("if", " if ").replace("else", " else ")
        value = eval(python, {"loop": run_loop})  # noqa: S307
        found.append(str(value % 10 ** (length + 1)))
    return found


# --- the programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "nesting"), LEVELS)
@pytest.mark.parametrize(("grammar", "category"), KINDS)
def test_ten_thousand_answers_are_what_python_computes(grammar, category, length, nesting):
    task = task_of(grammar, category, length=length, nesting=nesting, curriculum="baseline")
    programs, answers = zip(*examples(task, 10_000), strict=True)
    assert list(answers) == printed_by_python(grammar, length, programs)


@pytest.mark.parametrize(
    ("category", "forms"),
    [
        ("addition", {"+"}),
        ("control", {"if<", "if>", "for"}),
        ("program", {"+", "-", "*", "if<", "if>", "for"}),
    ],
)
def test_a_santoro_category_has_its_forms_and_literals_of_one_length(category, forms):
    task = task_of("santoro", category, length=3, nesting=2, curriculum="baseline")
    literal = r"(\d{3})"
    shapes = {
        "+": rf"(.+)\+{literal}",
        "-": rf"(.+)-{literal}",
        "*": rf"(.+)\*{literal}",
        "if<": rf"(.+)if{literal}<{literal}else{literal}",
        "if>": rf"(.+)if{literal}>{literal}else{literal}",
        "for": rf"x=(.+)for\[[1-9]\]x\+={literal}",
    }
    seen = Counter()
    for program, _ in examples(task, 500):
        for level in ("outer", "inner"):
            name, match = next(
                (name, match)
                for name, shape in shapes.items()
                if (match := re.fullmatch(shape, program))
                and match[1].count("(") == match[1].count(")")
            )
            seen[name] += 1
            program = match[1]
            if level == "outer":
                assert program[0] + program[-1] == "()"
                program = program[1:-1]
        assert re.fullmatch(literal, program)
        assert program[0] != "0"
    assert seen.keys() == forms
    kinds = Counter()
    for name, count in seen.items():
        kinds[name[:2]] += count
    assert all(0.8 < count * len(kinds) / 1000 < 1.2 for count in kinds.values())


def test_zaremba_draws_every_statement_and_each_operand_at_every_place():
    task = task_of("zaremba", "program", length=1, nesting=2, curriculum="baseline")
    programs = [program for program, _ in examples(task, 4000)]
    forms = {
        "sum": r"\w+\+\w+\)", "difference": r"\w+-\w+\)", "product": r"\*",
        "variable": r"[a-j]=.+;",
        "loop": r"for x in range\(\d\):[a-j]\+=", "loop down": r"range\(\d\):[a-j]-=",
        "if": r"if .+[<>].+ else", "nothing at all": r"^print\(\d+\)@$",
        "inner result first": r"\(\(", "inner result last": r"\)\)\)",
        "inner result in a condition": r"if \(|[<>]\(", "inner result is looped over": r"=\(.+\)#p",
    }  # fmt: skip
    for name, form in forms.items():
        assert any(re.search(form, program) for program in programs), name
    assert all(program.endswith(")@") and program.count("print") == 1 for program in programs)


def test_zaremba_literals_are_from_one_to_ten_to_the_length_and_factors_to_four_times_it():
    task = task_of("zaremba", "program", length=1, nesting=1, curriculum="baseline")
    text = " ".join(p for stream in Stream for p, _ in examples(task, 3000, stream))
    assert set(re.findall(r"print\((\d+)\)", text)) == {str(n) for n in range(1, 11)}
    assert set(re.findall(r"range\((\d+)\)", text)) == set("1234")
    factors = re.findall(r"(\d+)\*(\d+)", text)
    assert all(min(int(a), int(b)) <= 4 and max(int(a), int(b)) <= 10 for a, b in factors)
    assert {a for a, _ in factors} == {b for _, b in factors} == {str(n) for n in range(1, 11)}


def test_lengths_of_programs_and_answers_at_the_papers_difficulty():
    """The reference's generator gives programs of 89 characters on average, 176 at most."""
    task = task_of("zaremba", "program", curriculum="baseline")
    programs, answers = zip(*examples(task, 20_000), strict=True)
    lengths = [len(program) for program in programs]
    assert 88 < np.mean(lengths) < 91
    assert 165 < max(lengths) < 185
    assert max(map(len, answers)) <= 17 + 1
    assert task.spec(hidden_size=8).read == 17 + 1
    for category, longest in (("addition", 55), ("control", 151), ("program", 151)):
        task = task_of("santoro", category, curriculum="baseline")
        programs, answers = zip(*examples(task, 2000), strict=True)
        assert max(map(len, programs)) == longest
        assert max(map(len, answers)) == task.spec(hidden_size=8).read == 10


@pytest.mark.parametrize(("grammar", "category"), KINDS)
@pytest.mark.parametrize(("length", "nesting"), [(1, 1), (1, 4), (3, 2), (9, 4)])
def test_no_answer_is_longer_than_the_steps_that_answer(grammar, category, length, nesting):
    task = task_of(grammar, category, length=length, nesting=nesting)
    assert max(len(a) for _, a in examples(task, 2000)) <= task.spec(hidden_size=8).read


# --- the split ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grammar", "category"), KINDS)
@pytest.mark.parametrize(("length", "nesting"), [(1, 1), (1, 2)])
def test_no_program_is_in_two_splits_for_any_seed(grammar, category, length, nesting):
    """At these sizes the same programs are drawn repeatedly."""
    task = task_of(grammar, category, length=length, nesting=nesting, curriculum="baseline")
    parts = [
        {program for seed in range(3) for program, _ in examples(task, 700, stream, seed)}
        for stream in Stream
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_eight_tenths_of_the_programs_are_for_training():
    """Counted on the 81 sums of two digits, all of which are drawn."""
    task = task_of("santoro", "addition", length=1, nesting=1)
    parts = [{program for program, _ in examples(task, 2000, stream)} for stream in Stream]
    assert sum(map(len, parts)) == 81
    assert len(parts[Stream.TRAIN]) == pytest.approx(0.8 * 81, abs=9)


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grammar", "category"), KINDS)
def test_a_batch_encodes_its_examples(grammar, category):
    """Programs end at the same step; the state is reset at each start; the rest is padding."""
    task, alphabet = task_of(grammar, category, length=4, nesting=2), GRAMMARS[grammar]
    rng = generator(3, Stream.TRAIN, 5)
    expected = task.examples(rng, 40, Stream.TRAIN, 5)
    batch, read = task.batch(3, 5, 40), task.spec(hidden_size=8).read
    forced = grammar == "zaremba"
    width = len(batch.inputs) - read + forced
    assert width % 8 == 0
    assert 0 <= width - max(len(program) for program, _ in expected) < 8
    assert batch.resets.sum(0).tolist() == [1] * 40
    for k, (program, answer) in enumerate(expected):
        previous = answer[:-1] if forced else ""
        output = "".join(alphabet.symbols[i] if i >= 0 else "~" for i in batch.inputs[:, k])
        assert output == (program.rjust(width, "~") + previous).ljust(len(batch.inputs), "~")
        assert batch.resets[:, k].argmax() == width - len(program)
        scored = "".join(alphabet.answers[i] if i >= 0 else "~" for i in batch.targets[:, k])
        assert scored == answer.ljust(read, "~")


def test_teacher_forcing_inputs_are_the_targets_one_step_later():
    task, alphabet = task_of("zaremba", "program"), GRAMMARS["zaremba"]
    batch, read = task.batch(0, 0, 16), task.spec(hidden_size=8).read
    previous, asked = batch.inputs[-read:], batch.targets
    assert {alphabet.symbols[i] for i in previous[0]} == {"@"}
    for before, after, missing in zip(asked[:-1].T, previous[1:].T, (asked < 0)[1:].T, strict=True):
        targets = [alphabet.answers[i] for i in before[~missing]]
        assert targets == [alphabet.symbols[i] for i in after[~missing]]


@pytest.mark.parametrize(("grammar", "category"), [("santoro", "program"), ("zaremba", "program")])
@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_programs_loss_does_not_depend_on_the_rest_of_its_batch(grammar, category, core):
    task = task_of(grammar, category, length=3, nesting=3)
    learner = backends.load("numpy").Learner(
        task.spec(hidden_size=12, core=core), seed=0, dtype="float64"
    )
    batch = task.batch(0, 0, 12)
    alone, counts = [], []
    for k in range(12):
        start = batch.resets[:, k].argmax()
        one = batch._replace(
            inputs=batch.inputs[start:, [k]], targets=batch.targets[:, [k]], resets=None
        )
        alone.append(learner.evaluate([one])["loss"])
        counts.append((one.targets >= 0).sum())
    assert len({batch.resets[:, k].argmax() for k in range(12)}) > 3
    whole = learner.evaluate([batch])["loss"]
    assert whole == pytest.approx(np.average(alone, weights=counts), rel=1e-12)


@pytest.mark.parametrize("curriculum", ["baseline", "naive", "mix", "combined"])
def test_batches_are_a_function_of_seed_and_step_alone(curriculum):
    task = Programs(length=4, nesting=2, curriculum=curriculum)
    first = [task.batch(7, step, 5) for step in (0, 1, 2)]
    for step in (2, 0, 1):
        for one, again in zip(first[step], task.batch(7, step, 5), strict=True):
            np.testing.assert_array_equal(one, again)
    texts = [
        str(examples(task, 5, seed=seed, step=step)) for seed, step in ((7, 0), (7, 1), (8, 0))
    ]
    assert len(set(texts)) == 3


def test_the_first_programs_of_seed_0_are_fixed():
    """Any Python, NumPy and machine draws the same ones."""
    task = Programs(length=3, nesting=2, curriculum="baseline")
    assert examples(task, 3) == [
        ("(782-367)*270", "2050"),
        ("(680if440>705else189)*348", "5772"),
        ("x=(x=172for[2]x+=379)for[2]x+=798", "2526"),
    ]
    task = Programs(grammar="zaremba", length=3, nesting=2, curriculum="baseline")
    assert examples(task, 3) == [
        ("d=426;#a=(d+727);#print((a+759))@", "1912."),
        ("print((5*580))@", "2900."),
        ("d=646#for x in range(6):d-=674#print((d*11))@", "-37378."),
    ]


def test_held_out_sets_have_full_difficulty_and_the_requested_sizes():
    task = Programs(length=4, nesting=3, category="addition", validation_size=10, test_size=7)
    held = {stream: task.held_out(stream, seed=0, size=4) for stream in Stream if stream}
    assert [b.inputs.shape[1] for b in held[Stream.VALIDATION]] == [4, 4, 2]
    assert [b.inputs.shape[1] for b in held[Stream.TEST]] == [4, 3]
    for batches in held.values():
        for batch in batches:
            assert ((batch.inputs >= 0).sum(0) == len("((1234+1234)+1234)+1234")).all()


# --- the curricula --------------------------------------------------------------------------------


def levels(task, step, count):
    """(length, nesting) of the sums at a step, from their text."""
    programs = [program for program, _ in examples(task, count, step=step)]
    return Counter((len(re.search(r"\d+", p)[0]), p.count("+")) for p in programs)


def test_mix_draws_length_and_nesting_uniformly():
    task = Programs(category="addition", length=3, nesting=2, curriculum="mix")
    found = levels(task, 0, 6000)
    assert found.keys() == {(length, nesting) for length in (1, 2, 3) for nesting in (1, 2)}
    assert all(850 < count < 1150 for count in found.values())


def test_naive_rises_by_length_then_nesting_and_stays():
    task = Programs(category="addition", length=3, nesting=2, curriculum="naive", level_steps=10)
    climb = [levels(task, step, 5) for step in (0, 9, 10, 20, 30, 49, 50, 1000)]
    expected = [(1, 1), (1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (3, 2)]
    assert climb == [Counter({level: 5}) for level in expected]


def test_combined_draws_one_program_in_five_from_mix():
    task = Programs(category="addition", length=3, nesting=2, curriculum="combined", level_steps=10)
    found = levels(task, 10, 6000)
    assert len(found) == 6
    assert found[2, 1] == pytest.approx(6000 * (0.8 + 0.2 / 6), abs=130)


def test_baseline_has_one_difficulty():
    task = Programs(category="addition", length=3, nesting=2, curriculum="baseline")
    assert levels(task, 0, 50) == Counter({(3, 2): 50})


# --- model, baselines, settings -------------------------------------------------------------------


def test_the_model_reads_one_hot_characters_and_answers_in_the_last_steps():
    spec = Programs(length=5, nesting=2).spec(hidden_size=16)
    assert (spec.input, spec.input_size, spec.output_size, spec.read) == ("one_hot", 28, 10, 6)
    spec = Programs(length=1, nesting=1, grammar="zaremba").spec(hidden_size=16)
    assert (spec.input_size, spec.output_size) == (len(GRAMMARS["zaremba"].symbols), 12)
    assert isinstance(spec, ModelSpec)


@pytest.mark.parametrize(("grammar", "category"), KINDS)
def test_programs_use_the_alphabet_completely(grammar, category):
    seen = {c for p, a in examples(task_of(grammar, category), 3000) for c in p}
    alphabet = GRAMMARS[grammar].symbols
    assert len(set(alphabet)) == len(alphabet)
    assert seen <= set(alphabet)
    assert category != "program" or seen == set(alphabet)


@pytest.mark.parametrize("grammar", ["santoro", "zaremba"])
def test_the_baselines_are_the_scores_of_memoryless_predictors(grammar):
    """Frequencies in training answers, counted one by one."""
    task = Programs(grammar=grammar, length=2, nesting=2)
    rules = {
        "most frequent character": lambda answer, k: 0,
        "most frequent at each place": lambda answer, k: k,
        "most frequent at each place after each character": lambda answer, k: (k, answer[:k][-1:]),
    }
    hardest = task.model_copy(update={"curriculum": "baseline"})
    scores = task.baselines()
    assert scores.keys() == set(list(rules)[: 3 if grammar == "zaremba" else 2])
    classes = len(GRAMMARS[grammar].answers)
    for name, found in scores.items():
        votes, rule = {}, rules[name]
        for _, answer in examples(hardest, 4096):
            for k, output in enumerate(answer):
                votes.setdefault(rule(answer, k), Counter())[output] += 1
        losses, right = [], []
        for _, answer in examples(hardest, 4096, Stream.TEST):
            for k, output in enumerate(answer):
                seen = votes.get(rule(answer, k), Counter())
                losses.append(-np.log((seen[output] + 1) / (seen.total() + classes)))
                top = max(seen.values(), default=0)
                right.append(top and seen[output] == top)
        assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-9)
        assert found["accuracy"] == pytest.approx(np.mean(right), abs=2e-3)


@pytest.mark.parametrize("grammar", ["santoro", "zaremba"])
def test_a_batch_is_drawn_twenty_times_faster_than_a_training_step(grammar):
    config = Config.of("programs", "UR", grammar=grammar)
    learner = backends.load("numpy").Learner(config.spec(), seed=0)
    drawing, learning = [], []
    for step in range(5):
        start = time.process_time()
        batch = config.task.batch(0, step, config.batch_size)
        middle = time.process_time()
        learner.step(batch, learning_rate=1e-3)
        drawing.append(middle - start)
        learning.append(time.process_time() - middle)
    assert 20 * min(drawing) < min(learning)


def test_the_quick_preset_has_a_category_of_its_grammar():
    assert Config.of("programs").task.category == "control"
    assert Config.of("programs", grammar="zaremba").task.category == "program"
    assert Config.of("programs", category="addition").task.category == "addition"


def test_master_gates_are_shared_by_thirty_two_units():
    assert Config.of("programs", "OM").mechanism.downsize == 32
    assert Config.of("programs", "UR").mechanism.downsize == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grammar": "zaremba", "category": "control"},
         "category='control' is none of grammar='zaremba', which has program only"),
        ({"grammar": "santorini"}, "grammar='santorini': input should be 'santoro' or 'zaremba'"),
        ({"curriculum": "blend"}, "curriculum='blend'"),
        ({"length": 13}, "length=13: .*less than or equal to 12"),
        ({"nesting": 0}, "nesting=0: .*greater than or equal to 1"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Config.of("programs", "UR", **settings)
    assert "\n" not in str(caught.value)
