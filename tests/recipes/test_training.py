"""Libraries that train models."""

import copy
import itertools

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
