"""The claims that ``gatecore verify`` checks: those of the analysis, on backends and tasks too."""

import functools
from typing import Any

import numpy as np

from gatecore import backends
from gatecore.analysis import claims
from gatecore.analysis._claim import ENUMERATION, HOLDS, Proposition, Result, claim
from gatecore.analysis.layers import Layer
from gatecore.tasks.environments.match import FIRST_PERSON, Match
from gatecore.tasks.training.config import TASKS, Config

# by backend; JAX computes in float32 unless it is told otherwise, the library always
_IMPLEMENTATIONS = {"numpy": {"reference": "float64", "native": "float32"},
                    "torch": {"reference": "float64", "plain": "float64", "native": "float32"},
                    "jax": {"reference": "float32", "native": "float32"}}  # fmt: skip


def propositions() -> tuple[Proposition, ...]:
    """All claims before they are checked, in the order of the report."""
    own = (value for value in globals().values() if isinstance(value, Proposition))
    return (*claims.propositions(trained()), *own)


@functools.cache
def trained() -> tuple[Layer, ...]:
    """The implementations of layers that work here, of every backend that is installed."""
    layers = []
    for name, implementations in _IMPLEMENTATIONS.items():
        try:
            backend = backends.load(name)
        except ImportError:
            continue
        for impl, dtype in implementations.items():
            layer = Layer(f"{name}, {impl}", functools.partial(backend.layer_vjp, impl=impl), dtype)
            if _works(layer):
                layers.append(layer)
    return tuple(layers)


def _works(layer: Layer) -> bool:
    """Whether an implementation is available: the native library may not have been built."""
    shapes = {"weight_ih": (2, 1), "weight_hh": (2, 1), "bias": (2,), "x": (1, 1, 1), "h": (1, 1)}
    arrays = {name: np.zeros(shape, layer.dtype) for name, shape in shapes.items()}
    try:
        layer.vjp("minimal", arrays, arrays["x"], "standard")
    except ValueError as error:
        if "is not available" not in str(error):
            raise
        return False
    return True


# ---- the claims on tasks ---------------------------------------------------------------------


def _task(name: str, **settings: Any) -> Any:
    """A task with these settings."""
    kind: Any = TASKS[name]
    return kind(**settings)


@claim("Section 3.1, Copy", HOLDS,
       "Ten digits from 1..8, N zeros, ten 9s; the digits are the output at the 9s alone, with "
       "baseline loss log 8", "As stated, in nats per digit", ENUMERATION)  # fmt: skip
def _check_copy() -> Result:
    task = _task("copying", length=30)
    batch = task.batch(seed=0, step=0, size=500)
    digits, blanks, cues = np.split(batch.inputs, [10, 40])
    read = task.spec(core="lstm", mechanism="UR", hidden_size=4).read
    losses = [scores["loss"] for scores in task.baselines().values()]
    return True, [
        ("10 digits, all of 1..8, N = 30 zeros, 10 nines",
         set(digits.ravel()) == set(range(1, 9)) and not blanks.any() and np.all(cues == 9)
         and len(cues) == 10),
        ("the targets are the digits, in order, at the last ten steps",
         np.array_equal(batch.targets, digits - 1) and read == 10),
        ("the baseline is log 8", losses == [np.log(8)])]  # fmt: skip


@claim("Section 3.1, Adding", HOLDS,
       "Numbers from U[0, 1], one marked in each half; their sum is the output, with baseline loss "
       "1/6", "As stated: a constant answer errs least with 1", ENUMERATION)  # fmt: skip
def _check_adding() -> Result:
    task = _task("adding", length=20)
    batch = task.batch(seed=0, step=0, size=4000)
    values, markers = np.moveaxis(batch.inputs, -1, 0)
    sums = (values * markers).sum(axis=0)
    losses = [scores["loss"] for scores in task.baselines().values()]
    return True, [
        ("a marker in each half", all(np.all(half.sum(axis=0) == 1)
                                      for half in np.split(markers, 2))),
        ("the target is the sum", np.allclose(batch.targets[0, :, 0], sums, atol=1e-6)),
        (f"the baseline is 1/6, the variance of 4000 sums {sums.var():.3f}",
         losses == [1 / 6] and abs(sums.var() - 1 / 6) < 0.01 and abs(values.mean() - 0.5) < 0.01),
    ]  # fmt: skip


@claim("D.5, order of the pixels", HOLDS, "Permuted images are read in the order of the bit "
       "reversal permutation", "As stated: step t reads pixel p[t]", ENUMERATION)  # fmt: skip
def _check_pixels() -> Result:
    plain, permuted = (_task("pixels", permute=p).batch(0, 0, 8) for p in (False, True))
    digits = [int(format(t, "06b")[::-1], 2) for t in range(64)]
    return True, [("64 pixels of a digit, each at the step with its digits reversed",
                   np.array_equal(permuted.inputs, plain.inputs[digits])
                   and not np.array_equal(permuted.inputs, plain.inputs))]  # fmt: skip


@claim("Section 3.4, Match", HOLDS, "Episodes of Match last 450-600 steps, with apples of reward "
       "0, 1 or 5 in between; the score is the reward of the last phase", "As stated; ten apples, "
       "and 10 for the right pad", ENUMERATION)  # fmt: skip
def _check_match() -> Result:
    match = Match(64, apple_reward=5.0, phases=(1, 2, 3))
    match.step(np.zeros(64, np.int64))
    apples = (match.board == 2).sum(axis=1) + (match.eaten > 0).sum(axis=1)
    presets = {apples: TASKS["match"].preset("paper", {"apples": apples}) for apples in (0, 1, 5)}
    phases = tuple(presets[0][name] for name in ("explore", "distractor", "reward"))
    scores = _task("match", distractor=3, explore=3).baselines()
    return True, [
        ("10 apples in the second room", np.all(apples == 10)),
        (f"phases of {phases}, the last until the choice: 525 to 600 steps",
         phases == FIRST_PERSON["phases"] and sum(phases) == 600 and presets[0]["ends_at_choice"]),
        ("the perfect score is 10, and no apple adds to it", scores["perfect"]["score"] == 10),
        ("discount .96 without apples and with 5, .998 with 1 (D.3)",
         [preset["discount"] for preset in presets.values()] == [0.96, 0.998, 0.96])]  # fmt: skip


@claim("Appendix D, settings", HOLDS, "C = 16 for synthetic and image tasks, 32 for language and "
       "programs; 256 units, rate 1e-3 and clipping at 1.0 on the synthetic tasks; forgetting "
       "starts at sigmoid(6)", "As stated", ENUMERATION)  # fmt: skip
def _check_settings() -> Result:
    names = ("copying", "adding", "pixels", "language", "programs")
    shared = {name: Config.of(name, "OM", hidden_size=64).mechanism.downsize for name in names}
    synthetic = [Config.of(name, "UR", "paper") for name in ("copying", "adding")]
    saturated = Config.of("forgetting", "R", "paper")
    *lengths, length = (dict(config.task)["length"] for config in (*synthetic, saturated))
    return True, [
        ("C = 16 and 32", list(shared.values()) == [16, 16, 16, 32, 32]),
        ("256 units, 1e-3, 1.0, N = 500 and 2000",
         all((c.hidden_size, c.learning_rate, c.clip_norm) == (256, 1e-3, 1.0) for c in synthetic)
         and lengths == [500, 2000]),
        ("forgetting: N = 500, 64 units, 1e-4, 1e4 steps, forget bias 6",
         (length, saturated.hidden_size, saturated.learning_rate) == (500, 64, 1e-4)
         and saturated.steps == 10**4 and saturated.mechanism.forget_bias == 6)]  # fmt: skip
