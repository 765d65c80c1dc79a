"""Libraries that train models."""

import copy
import itertools
import struct
import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from gatecore.backends.torch import GRU, LSTM, convert  # noqa: E402


def needs(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: use `make recipes`")


def all_names(model):
    return {name for name, _ in model.named_parameters()}


def test_lightning(recipe, moved):
    needs("lightning")
    page = recipe("Lightning")
    torch.manual_seed(0)
    start = page.Sum()
    assert moved(page.model, start) == all_names(start)
    target = page.x.sum(1)
    before, after = (functional.mse_loss(m(page.x), target) for m in (start, page.model))
    assert after < 0.7 * before
    assert torch.equal(page.loaded(page.x), page.model(page.x))
    assert page.loaded.rnn.mechanism.name == "UR"


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_lightning_in_other_precisions(recipe, moved, precision):
    lightning = needs("lightning")
    page = recipe("Lightning")
    model, start = copy.deepcopy(page.loaded), page.loaded
    settings = dict(max_epochs=1, accelerator="cpu", logger=False, precision=precision)
    lightning.Trainer(**settings).fit(model, page.data)
    assert moved(model.float(), start) == all_names(start)


def test_lightning_averages_the_weights(recipe):
    lightning = needs("lightning")
    page = recipe("Lightning")
    averaging = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9)
    settings = dict(max_epochs=1, accelerator="cpu", logger=False, callbacks=[averaging])
    model, weights = page.Sum(), []
    model.on_train_batch_end = lambda *_: weights.append(model.rnn.weight_hh_l0.detach().clone())
    lightning.Trainer(**settings).fit(model, page.data)
    assert not torch.equal(model.rnn.weight_hh_l0, weights[-1])
    assert torch.equal(model.rnn.mechanism_code, LSTM(1, 16).mechanism_code)


def test_gate_histograms_in_lightning(recipe, tmp_path):
    needs("lightning")
    event_pb2 = needs("tensorboardX.proto.event_pb2")
    recipe("Gate histograms in Lightning")
    files = tmp_path.glob("lightning_logs/version_0/events.out.tfevents.*")
    tags = {(value.tag, event.step) for event in records(files, event_pb2.Event)
            for value in event.summary.value}  # fmt: skip
    names = "median_timescale", "open", "shut", "forget", "log10_timescale"
    assert {(f"gates/rnn.l0/{name}", step) for name in names for step in (4, 8)} <= tags


def records(files, kind):
    """The messages of event files: records of a length, its checksum, data, their checksum."""
    for path in files:
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            yield kind.FromString(content[start + 12 : start + 12 + length])
            start += 12 + length + 4


def test_gate_histograms_are_those_of_the_training_batches(tmp_path, monkeypatch):
    lightning = needs("lightning")
    monkeypatch.chdir(tmp_path)
    from gatecore.backends.torch import watch
    from gatecore.backends.torch.inspect.lightning import GateHistograms

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.rnn = LSTM(1, 4, mechanism="UR")

        def training_step(self, x, _):
            return self.rnn(x)[0].square().mean()

        def validation_step(self, x, _):
            self.rnn(100 * x)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    class Memory(lightning.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            self.seen = [*getattr(self, "seen", []), (step, metrics)]

    model, x = Model(), torch.rand(6, 5, 3, 1)
    with watch(model) as expected:
        for batch in x:
            model.rnn(batch)
    logger = Memory(".")
    settings = dict(max_epochs=2, accelerator="cpu", logger=logger, callbacks=[GateHistograms()])
    data = torch.utils.data.DataLoader(x, batch_size=None)
    lightning.Trainer(**settings).fit(model, data, data)
    gates = [(step, m) for step, m in logger.seen if "gates/rnn.l0/open" in m]
    assert [step for step, _ in gates] == [6, 12]
    median = float(torch.as_tensor(expected.timescales()["rnn.l0"]).quantile(0.5))
    assert gates[0][1]["gates/rnn.l0/median_timescale"] == pytest.approx(median)
    assert not model.rnn.observers


def test_gate_histograms_without_a_logger_or_a_gate_are_refused(tmp_path, monkeypatch):
    lightning = needs("lightning")
    monkeypatch.chdir(tmp_path)
    from gatecore.backends.torch.inspect.lightning import GateHistograms

    def fit(model, logger):
        settings = dict(max_epochs=1, accelerator="cpu", callbacks=[GateHistograms()])
        lightning.Trainer(**settings, logger=logger).fit(model, [torch.rand(2, 3)])

    demo = needs("lightning.pytorch.demos.boring_classes").BoringModel()
    with pytest.raises(ValueError, match="needs a logger"):
        fit(demo, False)
    with pytest.raises(ValueError, match="must have gates to watch"):
        fit(demo, lightning.pytorch.loggers.CSVLogger("."))


def test_submitit(recipe, tmp_path, monkeypatch):
    needs("submitit")
    monkeypatch.setitem(sys.modules, "recipe", types.ModuleType("recipe"))
    cloudpickle = needs("cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules["recipe"])  # as a script's own classes are
    page = recipe("submitit")
    assert page.statuses == ["finished", "finished"]
    assert {path.parent.name for path in tmp_path.glob("runs/*/summary.json")} == {"standard", "UR"}


def test_weights_and_biases_keeps_an_offline_run(tmp_path, monkeypatch):
    needs("wandb")
    from gatecore.tasks.cli.commands import main

    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["--length", "5", "--hidden-size", "8", "--steps", "20", "--test-size", "8"]
    out = tmp_path / "copy"
    main(["train", "copying", *words, "--wandb", "gates", "--out", str(out)], standalone_mode=False)
    identifier = (out / "wandb-id.txt").read_text()
    (kept,) = out.glob(f"wandb/offline-run-*-{identifier}/run-{identifier}.wandb")
    content = kept.read_bytes()
    for name in ("train/loss", "validation/loss", "gates/forget/before", "log10_timescale/after"):
        assert name.encode() in content


def test_skorch(recipe):
    needs("skorch")
    page = recipe("skorch")
    best = page.search.best_estimator_
    assert len(page.search.cv_results_["mean_test_score"]) == 2
    losses = [epoch["train_loss"] for epoch in best.history]
    assert losses[-1] < 0.2 * losses[0]
    loaded = page.NeuralNetRegressor(page.Sum, **page.search.best_params_).initialize()
    loaded.load_params(f_params="sum.safetensors", use_safetensors=True)
    assert (loaded.predict(page.x) == best.predict(page.x)).all()


def test_stable_baselines(recipe, moved):
    needs("sb3_contrib")
    page = recipe("Stable-Baselines3")
    settings = dict(policy_kwargs=page.settings, n_steps=64, seed=0)
    start = page.RecurrentPPO(page.GatedLstmPolicy, "CartPole-v1", **settings)
    assert type(start.policy.lstm_actor) is type(page.loaded.policy.lstm_actor) is LSTM
    assert moved(page.model.policy, start.policy) == all_names(start.policy)
    assert not moved(page.loaded.policy, page.model.policy)
    observation = page.model.get_env().reset()
    results = [m.predict(observation, deterministic=True) for m in (page.model, page.loaded)]
    assert all((a == b).all() for a, b in zip(results[0][1], results[1][1], strict=True))
    page.loaded.learn(64)
    assert moved(page.loaded.policy, page.model.policy) >= {"lstm_actor.weight_hh_l0"}


@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
def test_stable_baselines_trains_a_converted_policy(recipe, moved, mechanism):
    sb3 = needs("sb3_contrib")
    settings = dict(policy_kwargs={"lstm_hidden_size": 16}, n_steps=64, seed=0)
    model = sb3.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", **settings)
    convert(model.policy, mechanism, optimizer=model.policy.optimizer)
    start = copy.deepcopy(model.policy)
    model.learn(128)
    assert moved(model.policy, start) == all_names(start)
    model.save("agent")
    other = sb3.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", **settings)
    convert(other.policy, mechanism, optimizer=other.policy.optimizer)
    other.set_parameters("agent")
    assert not moved(other.policy, model.policy)


def test_torchrl(recipe):
    needs("torchrl")
    page = recipe("TorchRL")
    layer, data = page.module.lstm, page.rollout
    x, resets = data["observation"], data["is_init"].squeeze(-1)
    for row, starts in ((0, (0, 3, 6)), (1, (0, 2, 6))):
        parts = [layer(x[row, a:b])[0] for a, b in itertools.pairwise(starts)]
        torch.testing.assert_close(page.features[row], torch.cat(parts))
    assert resets.sum() == 3
    h = data["next", "recurrent_state_h"]
    assert not h[:, :-1].any()
    torch.testing.assert_close(h[:, -1, 0], page.features[:, -1])


def test_torchrl_without_the_subclass_fails_at_a_reset_by_name(recipe):
    modules = needs("torchrl.modules")
    page = recipe("TorchRL")
    plain = modules.LSTMModule(lstm=page.module.lstm, in_key="observation", out_key="features")
    with page.set_recurrent_mode(True), pytest.raises(TypeError, match="mask"):
        plain(page.rollout.exclude("features", "next"))


def test_torchrl_equals_its_own_module(recipe):
    modules = needs("torchrl.modules")
    page = recipe("TorchRL")
    keys = dict(in_key="observation", out_key="features")
    theirs = modules.LSTMModule(3, 8, **keys)
    ours = page.GatedLSTMModule(lstm=convert(copy.deepcopy(theirs.lstm), "standard"), **keys)
    inputs = page.rollout.exclude("features", "next")
    with page.set_recurrent_mode(True):
        results = [module(inputs.clone())["features"] for module in (ours, theirs)]
    torch.testing.assert_close(*results)
    step = inputs[:, 0]
    results = [module(step.clone()) for module in (ours, theirs)]  # as a collector calls it
    for key in ("features", ("next", "recurrent_state_h"), ("next", "recurrent_state_c")):
        torch.testing.assert_close(*(result[key] for result in results))


def test_opacus(recipe, moved):
    needs("opacus")
    page = recipe("Opacus")
    torch.manual_seed(0)
    assert moved(page.model._module, page.Sum()) == all_names(page.Sum())
    samples = torch.func.vmap(torch.func.grad(page.loss), (None, 0, 0))(
        page.parameters, page.x[:3], page.x[:3].sum(1)
    )
    for k in range(3):
        page.model.zero_grad()
        functional.mse_loss(page.model(page.x[k : k + 1]), page.x[k].sum(0, True)).backward()
        for name, parameter in page.parameters.items():
            torch.testing.assert_close(samples[name][k], parameter.grad, rtol=1e-4, atol=1e-5)


def test_pytorch_forecasting(recipe):
    needs("pytorch_forecasting")
    page = recipe("PyTorch Forecasting")
    assert isinstance(page.model.rnn, LSTM)
    torch.manual_seed(0)
    x, _ = next(iter(page.loader))
    outputs = []
    for model in (page.model.eval(), page.loaded.eval()):
        torch.manual_seed(1)
        outputs.append(model(x)["prediction"])
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DeepAR", {}),
        ("DeepAR", {"cell_type": "GRU"}),
        ("RecurrentNetwork", {}),
        ("TemporalFusionTransformer", {}),
    ],
)
def test_pytorch_forecasting_computes_the_same_with_standard_gates(recipe, name, settings):
    forecasting = needs("pytorch_forecasting")
    page = recipe("PyTorch Forecasting")
    model = getattr(forecasting, name).from_dataset(page.data, hidden_size=8, **settings).eval()
    x, _ = next(iter(page.loader))
    torch.manual_seed(1)
    expected = model(x)["prediction"]
    convert(model, "standard")
    assert any(isinstance(m, LSTM | GRU) for m in model.modules())
    assert not any(isinstance(m, nn.LSTM | nn.GRU) for m in model.modules())
    torch.manual_seed(1)
    torch.testing.assert_close(model(x)["prediction"], expected, rtol=1e-5, atol=1e-6)
