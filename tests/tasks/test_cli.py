"""The command line: output, exit statuses, one message and no traceback on bad input."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import gatecore
from gatecore import MECHANISMS, mechanism, timescale
from gatecore.cells import LSTM
from gatecore.tasks import SweepConfig, load_run
from gatecore.tasks.cli import compare
from gatecore.tasks.cli.commands import main
from gatecore.tasks.training.run_folder import Folder
from tests.tasks.tiny import arguments


def run(*words):
    """Output and exit status of ``gatecore WORDS``; an exception that escapes fails the test."""
    result = CliRunner().invoke(main, words, env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_train_writes_a_run_and_prints_its_results(tmp_path):
    out = tmp_path / "run"
    result = run("train", "copying", "--mechanism", "UR", *arguments("--out", str(out)))
    assert result.exit_code == 0
    summary = load_run(out).summary
    assert f"{summary['test']['loss']:.4f}" in result.output
    assert "2.0794" in result.output
    assert load_run(out).config.task.length == 8


def test_several_mechanisms_get_a_folder_each(tmp_path):
    result = run("train", "copying", "--mechanism", "UR,O", *arguments("--out", str(tmp_path)))
    assert result.exit_code == 0
    names = {load_run(path.parent).config.mechanism.name for path in tmp_path.glob("*/config.json")}
    assert names == {"UR", "O"}


def test_a_variant_of_a_mechanism_is_trained_under_the_name_that_sweeps_give_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    gates = "UR(refine_bias=opposed)"
    assert run("train", "copying", "--mechanism", gates, *arguments()).exit_code == 0
    trained = load_run(tmp_path / "runs" / "copying-UR-refine_bias=opposed-seed0")
    assert trained.config.mechanism == mechanism("UR", refine_bias="opposed")
    (trial,), _ = SweepConfig.of("copying", mechanisms=gates).trials()
    assert trained.folder.name == trial.name


def test_variants_of_one_mechanism_are_compared_by_their_fields(tmp_path):
    gates = "UR,UR(refine_bias=opposed,name=UR),C( t_max = 8 )"
    result = run("train", "copying", "--mechanism", gates, *arguments("--out", str(tmp_path)))
    assert result.exit_code == 0, result.output
    names = ["UR", "UR-refine_bias=opposed", "C-t_max=8"]
    assert {path.parent.name for path in tmp_path.glob("*/config.json")} == {
        f"copying-{name}-seed0" for name in names
    }
    assert all(f"Copy, N=8, {name}: finished" in result.output for name in names)
    rows = [line[:14].strip() for line in result.output.splitlines()]
    assert [rows[k : k + 3] for k, row in enumerate(rows) if row == "UR"] == [
        ["UR", "(refine_bias=u", "niform)"], ["UR", "(refine_bias=o", "pposed)"]
    ]  # fmt: skip
    again = run("train", "copying", "--mechanism", gates, *arguments("--out", str(tmp_path)))
    assert again.output.count("already there") == 3


def test_options_and_settings_reach_the_config(tmp_path):
    out = tmp_path / "run"
    words = ["--core", "gru", "--seed", "3", "--set", "mechanism.refine_bias=uniform",
             "--set", "clip_norm=null", "--set", "zoneout=[0, 0.1]", "--set", "learning_rate=1e-4",
             "--backend", "numpy", "--preset", "paper"]  # fmt: skip
    assert run("train", "copying", *arguments("--out", str(out)), *words).exit_code == 0
    config = load_run(out).config
    assert (config.core, config.seed, config.clip_norm) == ("gru", 3, None)
    assert (config.zoneout, config.learning_rate, config.preset) == ((0, 0.1), 1e-4, "paper")
    assert config.mechanism == mechanism("UR", refine_bias="uniform")


def test_the_default_folder_is_named_by_task_mechanism_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "copying", *arguments("--seed", "4")).exit_code == 0
    assert (tmp_path / "runs" / "copying-UR-seed4" / "summary.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["copyng"], "task='copyng' is unknown: did you mean 'copying'?"),
        (["copying", "--mechanism", "URR"], "did you mean 'UR'"),
        (["copying", "--mechanism", "UR,"], "mechanism='' is unknown"),
        (["copying", "--preset", "fast"], "preset='fast' is unknown: known are quick, paper"),
        (["copying", "--core", "rnn"], "core='rnn'"),
        (["copying", "--backend", "pytorch"], "backend='pytorch' is unknown"),
        (["copying", "--steps", "0"], "steps=0"),
        (["copying", "--steps", "many"], "'many' is not a valid integer"),
        (["copying", "--seed", "-1"], "seed=-1"),
        (["copying", "--set", "lenght=5"], "did you mean 'length'"),
        (["copying", "--set", "mechanism=U"], "unknown setting 'mechanism': use --mechanism"),
        (["copying", "--set", "task=adding"], "unknown setting 'task'"),
        (["copying", "--set", "cls=1"], "setting='cls' is unknown"),
        (["copying", "--mechanism", "UR,UR"], "copying-UR-seed0 given twice"),
        (["copying", "--mechanism", "standard,-"], "copying-standard-seed0 given twice"),
        (["copying", "--mechanism", "C(tmax=8)"], "field='tmax' is unknown: did you mean 't_max'"),
        (["copying", "--mechanism", "C(t_max=8, t_max=9)"], "gives t_max twice"),
        (["copying", "--mechanism", "C(8)"], "mechanism='C(8)' should be NAME(FIELD=VALUE, ...)"),
        (["copying", "--mechanism", "U(t_max=8)"], "mechanism.t_max=8 has no effect on U"),
        (["copying", "--set", "length=long"], "length='long': input should be a valid integer"),
        (["copying", "--steps", "5", "--set", "steps=6"], "steps is given twice"),
        (["copying", "--set", "length"], "--set 'length' should be KEY=VALUE"),
        (["copying", "--set", "=5"], "should be KEY=VALUE"),
        (["copying", "--set", "learning_rate=NaN"], "learning_rate=nan"),
        (
            ["copying", "--set", "hidden_size=1", "--mechanism", "U"],
            "hidden_size must be at least 2",
        ),
        (["copying", "--set", "hidden_size=20", "--mechanism", "UM"], "not divisible by downsize"),
        (["copying", "--mechanism", "C", "--set", "mechanism.t_max=2"], "t_max must be above 2"),
        (["forgetting", "--mechanism", "OM"], "cannot run forgetting"),
        (["copying", "--out", __file__], "is a file"),
        ([], "Missing argument 'TASK'"),
    ],
)
def test_bad_input_gets_one_message_and_status_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run("train", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("Error:") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_run_is_an_error_and_unchanged(tmp_path):
    out = tmp_path / "run"
    run("train", "copying", *arguments("--out", str(out)))
    before = {file: file.read_bytes() for file in out.iterdir()}
    for words in (["--mechanism", "U"], [], ["--mechanism", "U", "--resume"]):
        result = run("train", "copying", *arguments("--out", str(out)), *words)
        assert (result.exit_code, result.output.count("Error:")) == (2, 1)
        assert "holds a" in result.output
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_resume_returns_a_finished_run(tmp_path):
    words = ("train", "copying", *arguments("--out", str(tmp_path / "run")))
    run(*words)
    result = run(*words, "--resume")
    assert result.exit_code == 0
    assert "2.0794" in result.output


def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(tmp_path):
    out = tmp_path / "run"
    words = arguments("--out", str(out), steps=1_000_000, evaluate_every=100_000)
    command = [sys.executable, "-m", "gatecore.tasks.cli", "train", "copying", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        for _ in range(600):
            if (out / "checkpoint.safetensors").exists():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    step = json.loads((out / "state.json").read_text())["step"]
    assert f"stopped at step {step} of 1000000" in message.decode()
    assert b"--resume" in message
    assert b"Traceback" not in message


def test_ctrl_c_outside_the_loop_exits_with_130(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gatecore.tasks.cli.results.train", interrupt)
    result = run("train", "copying", "--out", "never")
    assert (result.exit_code, "Traceback" in result.output) == (130, False)
    assert result.output == "Stopped.\n"


def test_a_second_ctrl_c_names_the_folder_of_the_last_checkpoint(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("gatecore.tasks.training.trainer._Trainer._validate", interrupt)
    result = run("train", "copying", *arguments("--out", str(tmp_path / "run")))
    assert result.exit_code == 130
    assert re.match(r"Stopped\. .*run keeps the run .*--resume", result.output)


def test_ctrl_c_in_the_first_validation_can_be_resumed(tmp_path, monkeypatch):
    words = ("train", "copying", *arguments("--out", str(tmp_path / "run")))
    with monkeypatch.context() as patch:
        original = Folder.save_gates

        def interrupt(self, **gates):
            signal.raise_signal(signal.SIGINT)
            original(self, **gates)

        patch.setattr(Folder, "save_gates", interrupt)
        result = run(*words)
    assert result.exit_code == 130
    assert "stopped at step 0 of 12" in result.output
    assert run(*words, "--resume").exit_code == 0


def test_the_help_explains_divergence_and_resumption():
    words = " ".join(run("train", "--help").output.split())
    assert "recorded as diverged. That is a result: the exit status is 0" in words
    assert "Implied by several mechanisms" in words


@pytest.mark.parametrize(("task", "units"), [("copying", 16), ("language", 32)])
def test_the_help_states_how_many_units_share_a_master_gate(task, units):
    dumped = json.loads(run("train", task, "--mechanism", "OM", "--dry-run").output)
    assert dumped["mechanism"]["downsize"] == units
    words = " ".join(run("train", task, "--help").output.split())
    assert f"{units} units share a master gate (OM, UM)" in words
    assert f"has downsize={gatecore.mechanism('OM').downsize}." in words


def test_a_run_that_diverged_exits_with_0(tmp_path):
    words = arguments("--out", str(tmp_path / "run"), learning_rate="1e30")
    result = run("train", "adding", *words)
    assert (result.exit_code, "diverged" in result.output) == (0, True)


def test_gates_prints_every_mechanism_in_eighty_columns():
    result = run("gates")
    assert result.exit_code == 0
    assert "…" not in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line.split()}
    assert rows.keys() >= MECHANISMS.keys()
    assert rows["O"][-1] != "∞"
    assert rows["OM"][-1] == "∞"
    assert "tied" in rows["UR"]
    assert "own" in rows["U"]


@pytest.mark.parametrize("name", MECHANISMS)
def test_gates_prints_parameter_counts_and_timescales_of_the_initial_biases(name):
    """Those of a layer: its parameters, and its effective gate without input."""
    row = MECHANISMS[name]
    gating = mechanism(row, downsize=8) if row.auxiliary == "master" else row
    cell = LSTM(5, 64, gating)
    params = cell.init(11)
    biases = gating.biases("lstm", 64, 11)
    silent = {**params, "bias": np.concatenate(list(biases.values()))}
    zero = np.zeros((1, 64))
    steps = timescale(cell.gates(silent, np.zeros((1, 5)), (zero, zero))[0])[0]
    printed = run("gates", "--hidden-size", "64", "--input-size", "5", "--downsize", "8",
                  "--seed", "11").output  # fmt: skip
    words = next(line.split() for line in printed.splitlines() if line.split()[:1] == [name])
    expected = [np.sort(steps)[int(np.ceil(q * 64)) - 1] for q in (0.05, 0.5, 0.95)]
    assert f"{sum(value.size for value in params.values()):,}" in words
    assert words[-3:] == ["∞" if np.isinf(value) else f"{value:.3g}" for value in expected]


def test_gates_of_an_impossible_layer_are_an_error():
    result = run("gates", "--hidden-size", "10", "--downsize", "4")
    assert result.exit_code == 2
    assert "Error: hidden_size=10 is not divisible by downsize=4" in result.output
    assert run("gates", "--core", "rnn").exit_code == 2
    small = run("gates", "--hidden-size", "2", "--downsize", "1")
    assert (small.exit_code, "t_max" in small.output) == (2, False)
    assert "needs at least 3 units" in small.output
    assert run("gates", "--hidden-size", "3", "--downsize", "1").exit_code == 0


@pytest.mark.parametrize("core", ["gru", "minimal"])
def test_gates_of_other_cores(core):
    """Their input gate is tied unless there are master gates."""
    result = run("gates", "--core", core)
    assert result.exit_code == 0
    assert re.search(r"^standard .* tied ", result.output, re.MULTILINE)


def test_help_lists_the_settings_of_a_task_with_the_defaults_of_the_preset():
    for preset, length, hidden in (("quick", 50, 128), ("paper", 500, 256)):
        text = " ".join(run("train", "copying", "--preset", preset, "--help").output.split())
        assert f"--length N, the number of blank steps [{length}]" in text
        assert f"--hidden-size units of a recurrent layer [{hidden}]" in text
    assert "--nesting" in run("train", "programs", "--core", "rmc", "--help").output


def test_help_without_a_task_lists_the_options_alone():
    for words in (["train", "--help"], ["train", "nowhere", "--help"]):
        assert "--resume" in run(*words).output
        assert "--length " not in run(*words).output.replace("--length 500", "")


def test_the_shell_completes_the_names_of_tasks():
    completed = ShellComplete(main, {}, "gatecore", "").get_completions(["train"], "co")
    assert [item.value for item in completed] == ["copying"]


def test_the_version_is_printed_before_the_commands_are_imported(tmp_path):
    statement = (
        "import sys; sys.argv = ['gatecore', '--version']\n"
        "from gatecore.tasks.cli.__main__ import run; run(); print('click' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"gatecore, version {gatecore.__version__}\nFalse\n"


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"gatecore, version \S+\n", result.output)


def test_the_error_about_a_missing_library_names_its_extra():
    """Without pydantic: no traceback from the command, and an error in Python."""
    block = "import sys; sys.modules['pydantic'] = None; "
    for statement in ("import gatecore.tasks.cli.commands", "from gatecore.tasks import train"):
        command = [sys.executable, "-c", block + statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "gatecore.tasks needs pydantic" in done.stderr
        assert "pip install -e '.[tasks]'" in done.stderr
        assert ("Traceback" in done.stderr) == ("train" in statement)


def test_errors_of_the_main_job_are_those_of_the_command_line(tmp_path):
    folder = tmp_path / "pixels-standard-seed0"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    result = CliRunner().invoke(compare.main, ["--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "config.json is no config: task is missing" in result.output
