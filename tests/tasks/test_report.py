"""The report: its numbers, groups, page, and notes on unreadable folders."""

import base64
import csv
import hashlib
import html
import html.parser
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatecore import mechanism
from gatecore.tasks import train
from gatecore.tasks.cli.commands import main
from gatecore.tasks.reports import export, report
from gatecore.tasks.reports.aggregate import Note
from gatecore.tasks.reports.summary import summarize
from gatecore.tasks.training.run_folder import FILES, RunError
from tests.tasks.tiny import tiny

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Standard and UR gates, three seeds each, one of UR stopped; and Adding, diverged."""
    root = tmp_path_factory.mktemp("runs")
    for name, seed in itertools.product(("standard", "UR"), SEEDS):
        train(tiny(mechanism=name, seed=seed), root / "copy" / f"{name}-{seed}")
    (root / "copy" / "UR-2" / "summary.json").unlink()
    train(tiny("adding", "U", learning_rate=1e30), root / "adding")
    return root


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """The page, the JSON and the lines of CSV of that folder's report."""
    out = tmp_path_factory.mktemp("report")
    page = report.write(report.read(folder), out)
    with open(out / "results.csv", encoding="utf-8", newline="") as stream:
        lines = {line["folder"]: line for line in csv.DictReader(stream)}
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return page.read_text(encoding="utf-8"), data, lines


def losses(run):
    """Validation losses of a run's metrics.jsonl by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "validation"}


def on_test_set(run):
    return json.loads((run / "summary.json").read_text())["test"]["loss"]


def group(data, title):
    return next(group for group in data["groups"] if group["title"] == title)


def test_numbers_are_those_of_the_files(folder, written):
    _, data, lines = written
    mechanisms = group(data, "Copy, N=8")["mechanisms"]
    for name, seeds in (("standard", SEEDS), ("UR", (0, 1))):
        best = [min(losses(folder / "copy" / f"{name}-{seed}").values()) for seed in seeds]
        tests = {str(seed): on_test_set(folder / "copy" / f"{name}-{seed}") for seed in seeds}
        assert mechanisms[name]["best_validation"] == min(best)
        assert mechanisms[name]["median_best_validation"] == np.median(best)
        assert mechanisms[name]["test_by_seed"] == tests
        assert mechanisms[name]["median_test"] == np.median(list(tests.values()))
        for seed, value in zip(seeds, best, strict=True):
            line = lines[f"copy/{name}-{seed}"]
            assert float(line["best_validation_loss"]) == value
            assert float(line["test_loss"]) == tests[str(seed)]
    assert mechanisms["UR"]["unfinished"] == [2]
    assert mechanisms["standard"]["diverged"] == mechanisms["UR"]["diverged"] == []


def test_the_page_shows_the_same_numbers(folder, written):
    page, _, _ = written
    tests = [on_test_set(folder / "copy" / f"standard-{seed}") for seed in SEEDS]
    row = re.search(r'<tr><th scope="row">standard</th>(.*?)</tr>', page, re.DOTALL).group(1)
    cells = re.findall(r'<td class="(\w+) ?\w*">(?:<strong>)?(.*?)(?:</strong>)?</td>', row)
    cells = dict(cells)
    assert cells["median_test"] == f"{np.median(tests):#.4g}"
    assert cells["seeds"] == ", ".join(f"{value:#.4g}" for value in tests)
    assert f"{json.loads((folder / 'copy/UR-0/summary.json').read_text())['parameters']:,}" in page
    assert "2.079" in page  # the memoryless baseline, ln 8


def test_bands_are_percentiles_over_seeds_as_far_as_each_got(folder):
    from gatecore.tasks.reports.plots import band_of

    variant = report.read(folder).groups[1].variants[0]
    curves = [losses(folder / "copy" / f"standard-{seed}") for seed in SEEDS]
    band = band_of(variant)
    assert band.steps.tolist() == sorted(curves[0])
    for step, middle, low, high in zip(*band[:4], strict=True):
        a, b, c = sorted(curve[step] for curve in curves)  # of three, 20 % lies 0.4 of the way
        assert [low, middle, high] == pytest.approx([a + 0.4 * (b - a), b, b + 0.6 * (c - b)])


def test_groups_hold_comparable_runs(folder, tmp_path):
    runs = [tiny(), tiny(hidden_size=8), tiny(mechanism="U", learning_rate=1e-2), tiny("adding")]
    for number, config in enumerate(runs):
        train(config, tmp_path / f"{number}")
    groups = report.read(tmp_path).groups
    assert [(g.title, g.differing, len(g.trials)) for g in groups] == [
        ("Adding, N=8", {}, 1),
        ("Copy, N=8", {"hidden_size": 16}, 2),
        ("Copy, N=8", {"hidden_size": 8}, 1),
    ]


def test_the_learning_rate_is_that_of_the_best_validation_score(tmp_path):
    for rate, seed in itertools.product((1e-3, 3e-2), (0, 1)):
        train(tiny(learning_rate=rate, seed=seed), tmp_path / f"{rate}-{seed}")
    best = {
        rate: min(min(losses(tmp_path / f"{rate}-{seed}").values()) for seed in (0, 1))
        for rate in (1e-3, 3e-2)
    }
    (variant,) = report.read(tmp_path).groups[0].variants
    assert variant.rate == min(best, key=best.get)
    assert variant.best == min(best.values())
    assert [t.config.learning_rate for t in variant.chosen] == [variant.rate] * 2


def test_labels_of_mechanisms_of_one_name_hold_the_fields_that_differ(tmp_path):
    for bias in ("opposed", "neutral"):
        train(tiny(steps=1, **{"mechanism.refine_bias": bias}), tmp_path / bias)
    labels = [variant.label for variant in report.read(tmp_path).groups[0].variants]
    assert labels == ["UR (refine_bias=neutral)", "UR (refine_bias=opposed)"]


def test_two_runs_of_the_same_settings_count_once(folder, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(folder / "copy" / "UR-0", tmp_path / name)
    (tmp_path / "first" / "summary.json").unlink()
    results = report.read(tmp_path)
    assert [trial.folder for trial in results.trials] == ["second"]
    assert [(n.folder, n.reason) for n in results.notes] == [
        ("first", "left out: second has the same settings")
    ]


# ---- the page --------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Tags, identifiers and references of a page; fails for a tag that is closed wrongly."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.refers, self.outside, self.tags = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.note(attrs)

    def handle_startendtag(self, tag, attrs):
        self.note(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def note(self, attrs):
        self.ids += [attrs["id"]] if "id" in attrs else []
        for name in ("aria-labelledby", "aria-describedby"):
            self.refers += attrs.get(name, "").split()
        for name in ("href", "xlink:href", "src"):
            target = attrs.get(name, "#")
            (self.refers if target.startswith("#") else self.outside).append(target.lstrip("#"))


def test_the_page_is_complete_and_needs_no_network(written):
    page, _, _ = written
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {name for name in reader.refers if name} <= set(reader.ids)
    downloads = ("data:text/csv;charset=utf-8,", "data:application/x-tex;charset=utf-8,")
    assert {target.partition(",")[0] + "," for target in reader.outside} == {*downloads}
    assert not re.search(r"@import|url\((?!#)|<iframe", page)
    assert '<html lang="en">' in page
    assert 'name="viewport"' in page


def test_the_only_script_is_the_one_that_the_policy_allows(written):
    page, _, _ = written
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.unescape(re.search(r'Policy" content="(.*?)"', page).group(1))
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_tables_can_be_downloaded_as_csv_and_latex(written):
    found = re.findall(r'download="(.*?)" href="data:[^,]*,(.*?)"', written[0])
    texts = {name: urllib.parse.unquote(content) for name, content in found}  # of the last group
    header, row, _ = csv.reader(io.StringIO(texts["scores.csv"]))
    assert (header[0], row[0]) == ("gates", "standard")
    assert len(row) == len(header)
    lines = texts["scores.tex"].splitlines()
    assert lines[0] == r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}"
    assert lines[4].startswith("standard & ")
    assert lines[4].count("&") == len(header) - 1


NAMES = ("UR", "UR (refine_bias=opposed)", "10", "2", "[9cm]", "*x", "＝1+1", "\x1b", r"\x1b")


def test_no_name_is_another_label_a_key_an_argument_or_a_formula(tmp_path):
    gates = [mechanism("UR", refine_bias="opposed"), *(mechanism("UR", name=n) for n in NAMES)]
    for k, one in enumerate(gates):
        train(tiny(mechanism=one, steps=2), tmp_path / f"{k}")
    page = report.write(report.read(tmp_path), tmp_path / "out").read_text("utf-8")
    curves = json.loads(html.unescape(re.search('data-curves="(.*?)"', page).group(1)))
    rows = [html.unescape(row) for row in re.findall('<tr><th scope="row">(.*?)</th>', page)]
    assert [label for label, _ in curves] == rows[: len(gates)]  # in the order of the buttons
    assert len({*rows[: len(gates)]}) == len(gates)
    data = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert len(data["groups"][0]["mechanisms"]) == len(gates)
    tex = urllib.parse.unquote(re.search('href="data:application/x-tex[^,]*,(.*?)"', page).group(1))
    assert not re.search(r"\\\\\s*[\[*]", tex)
    assert "{}[9cm] & " in tex
    assert "'＝1+1" in (tmp_path / "out" / "results.csv").read_text("utf-8")


def test_one_seed_gives_no_column_twice(folder, tmp_path):
    page = report.write(report.read(folder / "adding"), tmp_path).read_text("utf-8")
    headings = re.findall(r'<th scope="col" class="(\w+)">', page)
    assert "median_test" in headings
    assert not {"median_best", "seeds"} & {*headings}


def test_the_title_says_what_was_compared(written):
    assert "<h1>Adding, N=8; Copy, N=8: U, standard, UR</h1>" in written[0]


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), "")


def in_a_browser(page, tmp_path, actions):
    """The value of JavaScript ``actions`` (a function's body) after the page was loaded."""
    file, unsafe = tmp_path / "page.html", "script-src 'unsafe-inline'"
    text, count = re.subn(r"script-src \S*sha256-[^\"]*", unsafe, page.read_text("utf-8"))
    assert count == 1
    result = f"document.title = JSON.stringify({{value: (() => {{{actions}}})(), errors}});"
    watch = "<script>const errors = []; onerror = message => errors.push(message);</script>"
    file.write_text(f"{watch}{text}<script>{result}</script>", "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
               f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout).group(1)))
    assert found["errors"] == []
    return found["value"]


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_in_a_browser_tables_are_sorted_curves_switched_and_values_shown(folder, tmp_path):
    page = report.write(report.read(folder / "copy"), tmp_path)
    value = in_a_browser(
        page,
        tmp_path,
        """
        const table = document.querySelector("table.scores"), first = () =>
          table.tBodies[0].rows[0].cells[0].textContent;
        const heading = table.tHead.rows[0].cells[0].querySelector("button");
        heading.click(); const up = first(); heading.click(); const down = first();
        const figure = document.querySelector("figure[data-curves]");
        const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
        const [label, points] = JSON.parse(figure.dataset.curves)[0];
        const scale = box.width / svg.viewBox.baseVal.width;
        svg.dispatchEvent(new PointerEvent("pointermove", {
          clientX: box.left + points[1][0] * scale, clientY: box.top + points[1][1] * scale}));
        const shown = figure.querySelector(".value").textContent;
        const line = document.querySelector("[id$='-curve-0']");
        const labels = [...figure.querySelectorAll(".switches button")].map(b => b.textContent);
        figure.querySelector(".switches button").click();
        return {up, down, shown, labels, expected: [label, points[1][2], points[1][3]],
                display: line.style.display, wide: document.body.scrollWidth > innerWidth};
        """,
    )
    assert (value["up"], value["down"]) == ("standard", "UR")
    label, step, score = value["expected"]
    assert value["shown"] == f"{label}, step {step}: {score}"
    assert value["labels"] == ["standard", "UR"]  # in the order in which they are drawn
    assert value["display"] == "none"
    assert not value["wide"]


def test_every_figure_has_a_description(written):
    figures = re.findall(r"<svg .*?</svg>", written[0], re.DOTALL)
    assert len(figures) == 7  # with the gates that refine gates modulate
    for figure in figures:
        assert 'role="img"' in figure
        assert len(re.search(r"<desc .*?>(.*?)</desc>", figure).group(1)) > 40


def test_equal_runs_give_an_equal_page(folder, tmp_path, written):
    report.write(report.read(folder), tmp_path)
    again = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert again == written[0]


def test_a_diverged_seed_has_an_asterisk_and_no_test_score(written):
    page, data, _ = written
    variant = group(data, "Adding, N=8")["mechanisms"]["U"]
    assert (variant["diverged"], variant["median_test"], variant["test_by_seed"]) == ([0], None, {})
    adding = page[page.index("Adding, N=8</h2>") : page.index("Copy, N=8</h2>")]
    assert re.search(r'<td class="best">[\d.]+\*</td>', adding)
    assert "Diverged: U on its one seed." in adding
    assert "No run of this group has finished with a score" in adding


def test_the_curves_in_the_data_are_thinned_and_keep_their_ends():
    assert export.thinned(0).tolist() == []
    assert export.thinned(1).tolist() == [0]
    points = export.thinned(5000)
    assert (points[0], points[-1], len(points)) == (0, 4999, 100)


def test_the_page_of_an_empty_folder_says_that_there_is_no_run(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "There is no run" in result.output
    out = tmp_path.with_name(f"{tmp_path.name}-report")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "There is no run here that can be read" in page
    assert "gatecore train copying" in page
    assert json.loads((out / "results.json").read_text())["groups"] == []
    assert list(tmp_path.iterdir()) == []
    Reader(page)


def test_the_report_lies_beside_the_folder_unless_out_names_another(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "copy" / "UR-0", tmp_path / "runs" / "run")
    monkeypatch.chdir(tmp_path)
    beside = "runs-report/report.html"
    for words, page in ((["runs"], beside), (["runs/"], beside),
                        (["runs", "--out", "runs"], "runs/report.html")):  # fmt: skip
        result = CliRunner().invoke(main, ["report", *words])
        assert (result.exit_code, result.output) == (0, f"Report: {page}\n")
        assert (tmp_path / page).exists()
    monkeypatch.chdir(tmp_path / "runs")
    assert (
        CliRunner().invoke(main, ["report", "."]).output == "Report: ../runs-report/report.html\n"
    )


def test_one_run_gives_a_page_that_compares_nothing(folder, tmp_path):
    shutil.copytree(folder / "copy" / "UR-0", tmp_path / "run")
    (only,) = report.read(tmp_path / "run").groups
    assert any("nothing to compare" in sentence for sentence in summarize(only))
    page = report.write(report.read(tmp_path / "run"), tmp_path / "out").read_text()
    assert "1 run in 1 group" in page
    assert "One seed each: no band." in page


def test_an_unfinished_run_is_excluded_from_all_statistics(folder):
    copy = report.read(folder).groups[1]
    assert "One run has not finished, and is excluded from all statistics." in summarize(copy)
    ur = copy.variants[1]
    assert [trial.seed for trial in ur.unfinished] == [2]
    assert ur.tests.keys() == {0, 1}


# ---- bad folders -----------------------------------------------------------------------------


def test_the_page_names_unreadable_folders_with_the_reason(folder, tmp_path):
    shutil.copytree(folder / "copy", tmp_path / "runs")
    (tmp_path / "runs" / "UR-0" / "config.json").write_text("{")
    (tmp_path / "runs" / "UR-1" / "config.json").unlink()
    result = CliRunner().invoke(main, ["report", str(tmp_path / "runs")])
    assert result.exit_code == 0
    page = (tmp_path / "runs-report" / "report.html").read_text(encoding="utf-8")
    for name, reason in (("UR-0", "config.json cannot be read"), ("UR-1", "there is no config")):
        assert re.search(f"<code>{name}</code>: .*{reason}", page)
        assert re.search(f"Left out: {name}: .*{reason}", result.output)
    assert str(tmp_path) not in page


def test_notes_name_a_folder_that_cannot_be_listed(folder, tmp_path, monkeypatch):
    """The error is raised here, since the tests may run as root."""
    shutil.copytree(folder / "adding", tmp_path / "run")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def fail(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    results = report.read(tmp_path)
    assert [trial.folder for trial in results.trials] == ["run"]
    assert results.notes[0] == Note("closed", "cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "No such file or directory"), ("file", "Not a directory")],
)
def test_a_path_that_is_no_folder_exits_with_status_2(tmp_path, name, message):
    (tmp_path / "file").write_text("precious")
    result = CliRunner().invoke(main, ["report", str(tmp_path / name)])
    assert (result.exit_code, result.output.count("Error:")) == (2, 1)
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["report.html", "results.json", "results.csv"])
def test_files_that_are_no_reports_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("precious")
    result = CliRunner().invoke(main, ["report", str(tmp_path), "--out", str(tmp_path)])
    assert (result.exit_code, result.output.count("Error:")) == (2, 1)
    assert f"{name} is not of a report" in result.output
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_an_impossible_output_folder_is_an_error(folder):
    with pytest.raises(RunError, match="cannot be an output folder"):
        report.write(report.read(folder), __file__)


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_a_damaged_run_is_left_out_or_unchanged(folder, tmp_path_factory, data):
    """Any damage to one of its files: no traceback, and no other number than before."""
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(folder / "copy" / "UR-0", root / "run")
    before = export.record(report.read(root).trials[0])
    names = [name for name in FILES if (root / "run" / name).exists()]
    path = root / "run" / data.draw(st.sampled_from(names))
    path.write_bytes(damaged(path.read_bytes(), data))
    results = report.read(root)
    report.table(results)
    after = json.loads(report.data(results))
    if not results.trials:
        assert [note.folder for note in results.notes] == ["run"]
        assert after["groups"] == []
    else:
        assert export.record(results.trials[0]) == before
    shutil.rmtree(root)


def damaged(content, data):
    """``content`` with a byte changed, a part removed or repeated, or something else instead."""
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start + 1, len(content)))
    part = content[start:end]
    byte = bytes([content[start] ^ data.draw(st.integers(1, 255))])
    return data.draw(
        st.sampled_from(
            [
                content[:start] + byte + content[start + 1 :],
                content[:start] + content[end:],
                content[:end] + part + content[end:],
                content[:start],
                part[::-1],
                b"[]",
                b'{"sha256": null}',
            ]
        )
    )
