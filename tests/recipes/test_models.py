"""Libraries that save, load, explain, count and compile models."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore.backends.torch import convert  # noqa: E402


def needs(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: use `make recipes`")


@pytest.mark.parametrize("mechanism", ["standard", "C", "UR", "OM"])
def test_transformers(recipe, mechanism):
    needs("transformers")
    page = recipe("transformers")
    tokens = torch.randint(20, (2, 5))
    assert torch.equal(page.loaded(tokens), page.model(tokens))
    model = page.Tagger(page.TaggerConfig(mechanism=mechanism)).eval()
    model.save_pretrained("other")
    loaded, report = page.Tagger.from_pretrained("other", output_loading_info=True)
    assert not any(report.values())
    assert loaded.rnn.mechanism.name == mechanism
    assert torch.equal(loaded.eval()(tokens), model(tokens))
    half = page.Tagger.from_pretrained("other", dtype=torch.bfloat16)
    torch.testing.assert_close(half(tokens).float(), model(tokens), rtol=0.05, atol=1e-3)


def test_transformers_saves_a_layer_that_was_loaded_without_its_mechanism(recipe):
    needs("transformers")
    page = recipe("transformers")
    page.Tagger(page.TaggerConfig(mechanism="standard")).save_pretrained("standard")
    page.Tagger.from_pretrained("standard", mechanism="UR").save_pretrained("refined")
    page.model.load_state_dict(page.Tagger.from_pretrained("refined").state_dict())


def test_a_model_of_transformers_computes_the_same_with_standard_gates():
    transformers = needs("transformers")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16)
    model, x = transformers.EncodecModel(config).eval(), torch.randn(1, 1, 640)
    with torch.no_grad():
        expected = model.encoder(x)
        convert(model, "standard")
        torch.testing.assert_close(model.encoder(x), expected)


def test_hugging_face_hub(recipe):
    needs("huggingface_hub")
    page = recipe("Hugging Face Hub")
    x = torch.randn(5, 2, 3)
    assert torch.equal(page.loaded(x), page.model(x))
    assert page.loaded.rnn.mechanism.name == "UR"


def test_accelerate(recipe):
    accelerate = needs("accelerate")
    page = recipe("Accelerate")
    x = torch.randn(5, 2, 3)
    assert page.loaded.upper.weight_ih_l0.is_meta
    assert torch.equal(page.loaded(x), page.model(x))
    for include_buffers in (False, True):
        with accelerate.init_empty_weights(include_buffers=include_buffers):
            empty = page.Stack()
        loaded = accelerate.load_checkpoint_and_dispatch(empty, "stack.bin", device_map={"": "cpu"})
        assert torch.equal(loaded(x), page.model(x))
        page.model.load_state_dict(loaded.state_dict())


def test_captum(recipe):
    needs("captum")
    page = recipe("Captum")
    assert page.attributions.shape == page.x.shape
    difference = page.model(page.x)[:, 0] - page.model(torch.zeros_like(page.x))[:, 0]
    torch.testing.assert_close(
        page.attributions.sum((1, 2)).float(), difference, atol=1e-5, rtol=1e-3
    )


def test_aot_inductor(recipe):
    cpp_builder = needs("torch._inductor.cpp_builder")
    try:
        cpp_builder.get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  of several classes
        pytest.skip(f"no C++ compiler: {error}")
    page = recipe("AOTInductor")
    for batch, time in ((4, 6), (9, 13), (1, 2)):
        x = torch.randn(batch, time, 3)
        torch.testing.assert_close(page.compiled(x), page.model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
def test_onnx(recipe, batch_first):
    for name in ("onnxruntime", "onnxscript"):
        needs(name)
    page = recipe("ONNX")
    expected = page.model(page.x).detach().numpy()
    assert page.outputs[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch._dynamo.reset()
    model = page.Tagger(batch_first).eval()
    session = page.session(model, page.x, "other.onnx")
    for shape in ((4, 6, 3), (7, 11, 3), (1, 2, 3)):
        x = torch.randn(shape)
        (output,) = session.run(None, {"x": x.numpy()})
        assert output == pytest.approx(model(x).detach().numpy(), rel=1e-5, abs=1e-6)


def test_torchinfo(recipe):
    torchinfo = needs("torchinfo")
    page = recipe("torchinfo")
    theirs = torchinfo.summary(torch.nn.Sequential(torch.nn.LSTM(3, 16, 2)), (6, 4, 3), verbose=0)
    assert (
        page.summary.total_params
        == theirs.total_params
        == sum(p.numel() for p in page.LSTM(3, 16, 2).parameters())
    )
    assert page.summary.total_mult_adds == theirs.total_mult_adds > 0
