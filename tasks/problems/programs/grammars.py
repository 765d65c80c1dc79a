"""Two grammars of short programs; each program comes with the answer that Python would print.

It grows inside out: each of its ``nesting`` operations takes the last result and draws the others.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

Draw = Callable[[], float]  # uniform in [0, 1)
Term = tuple[int, str]  # the value of an expression, and its text
Operations = tuple[Callable[..., Term], ...]


class Grammar(NamedTuple):
    """The programs of a grammar, and how a model answers."""

    symbols: str  # characters of the inputs; a token is an index into them
    answers: str  # characters of the answers
    categories: Mapping[str, Operations]
    program: Callable[[Draw, Operations, int, int], tuple[str, str]]  # by length and nesting
    longest: Callable[[int, int], int]  # bounds the answer's characters, with the end mark
    forced: bool  # teacher forcing: whether the model reads the target while it answers


def _santoro(draw: Draw, operations: Operations, length: int, nesting: int) -> tuple[str, str]:
    """One expression with literals of equal length."""
    lowest = 10 ** (length - 1)

    def literal() -> int:
        return lowest + int(draw() * 9 * lowest)

    value = literal()
    text = str(value)
    for level in range(nesting):
        inner = f"({text})" if level else text
        value, text = operations[int(draw() * len(operations))](value, inner, literal, draw)
    return text, str(value % 10 ** (length + 1))


def _binary(sign: str, apply: Callable[[int, int], int], value: int, text: str,
            literal: Callable[[], int], draw: Draw) -> Term:  # fmt: skip
    other = literal()
    return apply(value, other), f"{text}{sign}{other}"


_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_add, _subtract, _multiply = (functools.partial(_binary, *item) for item in _OPERATORS.items())


def _choose(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    left, right, other = literal(), literal(), literal()
    holds, sign = (left > right, ">") if draw() < 0.5 else (left < right, "<")
    return value if holds else other, f"{text}if{left}{sign}{right}else{other}"


def _repeat(value: int, text: str, literal: Callable[[], int], draw: Draw) -> Term:
    times, other = 1 + int(draw() * 9), literal()
    return value + times * other, f"x={text}for[{times}]x+={other}"


class _Script:
    """A program of zaremba under construction: its statements, unused variables, last result."""

    def __init__(self, draw: Draw, length: int) -> None:
        self.draw, self.largest, self.few = draw, 10**length, 4 * length
        self.lines: list[str] = []
        self.names = list("abcdefghij")
        self.top = self.literal()

    def literal(self) -> Term:
        value = 1 + int(self.draw() * self.largest)
        return value, str(value)

    def operands(self, count: int) -> list[Term]:
        """The last result (at first a literal) and new literals, in random order."""
        terms = [self.literal() for _ in range(count - 1)]
        terms.insert(int(self.draw() * count), self.top)
        return terms

    def small(self) -> int:
        return 1 + int(self.draw() * self.few)

    def name(self) -> str:
        return self.names.pop(int(self.draw() * len(self.names)))

    def coin(self) -> bool:
        return self.draw() < 0.5


def _zaremba(draw: Draw, operations: Operations, length: int, nesting: int) -> tuple[str, str]:
    script = _Script(draw, length)
    for _ in range(nesting):
        script.top = operations[int(draw() * len(operations))](script)
    value, text = script.top
    return "#".join([*script.lines, f"print({text})@"]), f"{value}."


def _sum(script: _Script, left: Term, right: Term) -> Term:
    """The sum of two terms, or their difference."""
    apply, sign = (operator.add, "+") if script.coin() else (operator.sub, "-")
    return apply(left[0], right[0]), f"({left[1]}{sign}{right[1]})"


def _small_product(script: _Script) -> Term:
    ((a, text),), b = script.operands(1), script.small()
    return a * b, f"({text}*{b})" if script.coin() else f"({b}*{text})"


def _variable(script: _Script) -> Term:
    name, ((value, text), right) = script.name(), script.operands(2)
    script.lines.append(f"{name}={text};")
    return _sum(script, (value, name), right)


def _loop(script: _Script) -> Term:
    name, ((a, left), (b, right)) = script.name(), script.operands(2)
    times, sign = script.small(), "+" if script.coin() else "-"
    script.lines += [f"{name}={left}", f"for x in range({times}):{name}{sign}={right}"]
    return a + times * b if sign == "+" else a - times * b, name


def _if(script: _Script) -> Term:
    (a, left), (b, right), then, other = script.operands(4)
    holds, sign = (a > b, ">") if script.coin() else (a < b, "<")
    return (then if holds else other)[0], f"({then[1]} if {left}{sign}{right} else {other[1]})"


GRAMMARS = {
    "santoro": Grammar(
        symbols="0123456789+-*=()[]<>xefilors", answers="0123456789",
        categories={"addition": (_add,), "control": (_choose, _repeat),
                    "program": (_add, _subtract, _multiply, _choose, _repeat)},
        program=_santoro, longest=lambda length, nesting: length + 1, forced=False),
    "zaremba": Grammar(
        symbols="0123456789+-*=()<>:;#@ abcdefghijlnoprstx", answers="0123456789-.",
        categories={"program": (lambda script: _sum(script, *script.operands(2)), _small_product,
                                lambda script: script.operands(1)[0], _variable, _loop, _if)},
        program=_zaremba, forced=True,
        # an operation multiplies its largest operand by at most 4·length + 1; sign and end mark
        longest=lambda length, nesting: len(str(10**length * (4 * length + 1) ** nesting)) + 2)
}  # fmt: skip
