"""Two grammars of short programs, each program with the answer that Python would print.

A program grows from the inside out: each of its ``nesting`` operations takes the value of the one
before as an operand, and draws the others afresh.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

Draw = Callable[[], float]  # uniform in [0, 1)
Term = tuple[int, str]  # a value and the expression that has it


class Grammar(NamedTuple):
    """What programs look like, and how a model answers.

    Parameters
    ----------
    symbols, answers : str
        The characters of its inputs and of its answers; a token is a place in them.
    categories : mapping
        Sets of operations by name.
    program : callable
        ``program(draw, operations, length, nesting)`` returns a program and its answer, as text.
    longest : callable
        ``longest(length, nesting)`` bounds the answer's characters, the end mark included.
    forced : bool
        Whether the model reads the right answer's characters while it answers (teacher forcing);
        otherwise it reads nothing.
    """

    symbols: str
    answers: str
    categories: Mapping[str, tuple[Callable[..., Term], ...]]
    program: Callable[[Draw, tuple[Callable[..., Term], ...], int, int], tuple[str, str]]
    longest: Callable[[int, int], int]
    forced: bool


# --- santoro: literals of equal length, and forms of one expression ------------------------------


def _santoro(
    draw: Draw, operations: tuple[Callable[..., Term], ...], length: int, nesting: int
) -> tuple[str, str]:
    lowest = 10 ** (length - 1)

    def literal() -> int:
        return lowest + int(draw() * 9 * lowest)

    value = literal()
    text = str(value)
    for level in range(nesting):
        inner = f"({text})" if level else text
        value, text = operations[int(draw() * len(operations))](value, inner, literal, draw)
    return text, str(value % 10 ** (length + 1))


def _add(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    other = literal()
    return value + other, f"{text}+{other}"


def _subtract(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    other = literal()
    return value - other, f"{text}-{other}"


def _multiply(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    other = literal()
    return value * other, f"{text}*{other}"


def _choose(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    left, right, other = literal(), literal(), literal()
    if draw() < 0.5:
        return (value if left > right else other), f"{text}if{left}>{right}else{other}"
    return (value if left < right else other), f"{text}if{left}<{right}else{other}"


def _repeat(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    times, other = 1 + int(draw() * 9), literal()
    return value + times * other, f"x={text}for[{times}]x+={other}"


# --- zaremba: statements, variables, and an expression to print ----------------------------------


class _Script:
    """A program as it grows: its lines, the variables left, and the last operation's result."""

    def __init__(self, draw: Draw, length: int) -> None:
        self.draw, self.largest, self.few = draw, 10**length, 4 * length
        self.lines: list[str] = []
        self.names = list("abcdefghij")
        self.top = self.literal()

    def literal(self) -> Term:
        value = 1 + int(self.draw() * self.largest)
        return value, str(value)

    def operands(self, count: int) -> list[Term]:
        """The last result (at first a literal) and fresh ones, in any order."""
        terms = [self.literal() for _ in range(count - 1)]
        terms.insert(int(self.draw() * count), self.top)
        return terms

    def small(self) -> int:
        return 1 + int(self.draw() * self.few)

    def name(self) -> str:
        return self.names.pop(int(self.draw() * len(self.names)))

    def heads(self) -> bool:
        return self.draw() < 0.5


def _zaremba(
    draw: Draw, operations: tuple[Callable[..., Term], ...], length: int, nesting: int
) -> tuple[str, str]:
    script = _Script(draw, length)
    for _ in range(nesting):
        script.top = operations[int(draw() * len(operations))](script)
    value, text = script.top
    return "#".join([*script.lines, f"print({text})@"]), f"{value}."


def _pair(script: _Script) -> Term:
    (a, left), (b, right) = script.operands(2)
    return (a + b, f"({left}+{right})") if script.heads() else (a - b, f"({left}-{right})")


def _small_product(script: _Script) -> Term:
    ((a, text),), b = script.operands(1), script.small()
    return a * b, f"({text}*{b})" if script.heads() else f"({b}*{text})"


def _same(script: _Script) -> Term:
    return script.operands(1)[0]


def _variable(script: _Script) -> Term:
    name, ((a, left), (b, right)) = script.name(), script.operands(2)
    script.lines.append(f"{name}={left};")
    return (a + b, f"({name}+{right})") if script.heads() else (a - b, f"({name}-{right})")


def _loop(script: _Script) -> Term:
    name, ((a, left), (b, right)) = script.name(), script.operands(2)
    times, sign = script.small(), "+" if script.heads() else "-"
    script.lines += [f"{name}={left}", f"for x in range({times}):{name}{sign}={right}"]
    return a + times * b if sign == "+" else a - times * b, name


def _if(script: _Script) -> Term:
    (a, left), (b, right), then, other = script.operands(4)
    holds, sign = (a > b, ">") if script.heads() else (a < b, "<")
    return (then if holds else other)[0], f"({then[1]} if {left}{sign}{right} else {other[1]})"


GRAMMARS = {
    "santoro": Grammar(
        symbols="0123456789+-*=()[]<>xefilors",
        answers="0123456789",
        categories={
            "addition": (_add,),
            "control": (_choose, _repeat),
            "program": (_add, _subtract, _multiply, _choose, _repeat),
        },
        program=_santoro,
        longest=lambda length, nesting: length + 1,
        forced=False,
    ),
    "zaremba": Grammar(
        symbols="0123456789+-*=()<>:;#@ abcdefghijlnoprstx",
        answers="0123456789-.",
        categories={"program": (_pair, _small_product, _same, _variable, _loop, _if)},
        program=_zaremba,
        # no operation makes more than 4·length + 1 of its largest operand; a sign and an end mark
        longest=lambda length, nesting: len(str(10**length * (4 * length + 1) ** nesting)) + 2,
        forced=True,
    ),
}
