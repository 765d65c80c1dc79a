"""Memory and speed of the language pipeline on a large generated corpus.

    python benchmarks/corpus.py [--megabytes 1000] [--folder FOLDER]

Words are drawn from a vocabulary of 300,000 by Zipf's law, in lines and articles like WikiText's.
Encoding, a pass over all training batches and counting the baselines each run in a new process,
whose peak resident memory is printed: it should stay below 500 MB.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import peak_megabytes

VOCABULARY, LIMIT = 300_000, 500


def generate(folder: Path, megabytes: int) -> None:
    """Write the three splits: 98 %, 1 % and 1 % of the size."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(VOCABULARY)]
    words = np.array(names, dtype=object)
    cumulative = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    cumulative /= cumulative[-1]
    for split, share in (("train", 0.98), ("valid", 0.01), ("test", 0.01)):
        left = int(share * megabytes * 1e6)
        with open(folder / f"wiki.{split}.tokens", "w", encoding="utf-8") as file:
            while left > 0:
                text = words[np.searchsorted(cumulative, rng.random(200_000))]
                lines = [" ".join(text[k : k + 80]) for k in range(0, len(text), 80)]
                articles = [f" \n = {lines[k][:20]} = \n \n " + " \n ".join(lines[k : k + 40])
                            for k in range(0, len(lines), 40)]  # fmt: skip
                left -= file.write("\n".join(articles) + "\n")


def encode(folder: Path) -> dict[str, float]:
    """Encode the corpus."""
    from gatecore.tasks.problems.language.task import Language

    task = Language(data="files", path=str(folder))
    splits = task.corpus().splits.values()
    return {"tokens": sum(map(len, splits)), "symbols": task.symbols}


def iterate(folder: Path) -> dict[str, float]:
    """Make one epoch of training batches of the paper's size."""
    from gatecore.tasks.problems.base import Stream
    from gatecore.tasks.problems.language.task import Language

    task, size = Language(data="files", path=str(folder)), 128
    count = len(task.corpus().splits[Stream.TRAIN]) // (size * task.bptt)
    start = time.perf_counter()
    for step in range(count):
        task.batch(0, step, size)
    return {"batches": count, "ms_per_batch": 1e3 * (time.perf_counter() - start) / count}


def count(folder: Path) -> dict[str, float]:
    """The unigram and bigram baselines."""
    from gatecore.tasks.problems.language.task import Language

    scores = Language(data="files", path=str(folder)).baselines()
    return {name: values["perplexity"] for name, values in scores.items()}


PARTS = {"encode": encode, "iterate": iterate, "count": count}


def main() -> None:
    """Generate the corpus, and measure each part in a new process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="of the corpus; default: a temporary one")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        start = time.perf_counter()
        values = PARTS[arguments.part](arguments.folder)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_mb": peak_megabytes(), **values}))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="gatecore-corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        generate(folder, arguments.megabytes)
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            values = json.loads(done.stdout)
            peak, seconds = values.pop("peak_mb"), values.pop("seconds")
            verdict = "" if peak < LIMIT else f"  (more than {LIMIT})"
            rest = ", ".join(f"{name} {value:,.6g}" for name, value in values.items())
            print(f"{part:8} {seconds:7.1f} s  peak {peak:5.0f} MB{verdict}  {rest}", flush=True)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
