"""The ONNX file answers as the classifier does, or is not written."""

import ast
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_pretrained import needs_weights

from rareshot import export as export_module
from rareshot.backbones.norms import norms_of
from rareshot.bundle import Bundle, save_bundle
from rareshot.checkpoint import state_hash
from rareshot.cli import main
from rareshot.equal_parts import Evenly
from rareshot.export import EXTRA, NEAR, SAME, export, refuse_unfaithful, to_onnx
from rareshot.export_network import deployed
from rareshot.methods import METHODS
from rareshot.methods.maml import EpisodicClassifier
from rareshot.predict import Predictor, answer
from rareshot.run_record import Run
from rareshot.support_set import SupportSet, as_float

ROOT = Path(__file__).resolve().parents[1]
MISSING = [name for name in EXTRA if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} is not installed (pip install 'rareshot[onnx]')"
)


def predictor_of(
    name: str, *, way: int = 2, size: int = 28, numbers: tuple[int, ...] | None = None, **changes: Any
) -> Predictor:
    """An adapted learner none of whose weights is what it began with: no zero and no one hides a mistake."""
    draw = torch.Generator().manual_seed(0)
    method: Any = METHODS[name]
    method = replace(method, **({} if name in ("pretrained", "transfer") else {"width": 8}), **changes)
    state = dict(method.blank(size).state())
    for key, value in state.items():
        if value.is_floating_point():
            moved = value + 0.1 * torch.randn(value.shape, generator=draw)
            state[key] = moved.abs() if "var" in key or "pixels" in key else moved
    labels = torch.arange(way).repeat_interleave(torch.tensor(numbers or [2] * way))
    shades = torch.randint(0, 150, (way, 3, 1, 1), generator=draw)[labels]
    images = (shades + torch.randint(0, 106, (len(labels), 3, size, size), generator=draw)).to(torch.uint8)
    names = tuple(f"patient{at}.png" for at in range(len(labels)))
    support = SupportSet(images, labels, tuple("äbc"[:way]), names)
    bundle = Bundle(Run(method, name, 0, size, "own", {}, {}), "run", state, support)
    return Predictor(bundle, bundle.adapt())


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Adapted on one thread, as the command does: the last bits of an adaptation depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return predictor_of("maml", way=3)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(predictor: Predictor) -> bytes:
    return to_onnx(predictor)


def pixels(n: int, size: int = 28) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def between_classes(predictor: Predictor) -> np.ndarray:
    """From a support image of the first class to one of the last, in nine steps: somewhere between, the answer turns."""
    one, other = predictor.bundle.support.images[[0, -1]].permute(0, 2, 3, 1).numpy().astype(np.float64)
    return np.stack([(one + (other - one) * step / 8).astype(np.uint8) for step in range(9)])


def told_by(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    return predictor(as_float(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())).numpy()


KINDS = [
    ("maml", {"norm": "group"}),
    ("daml", {"norm": "tasknorm"}),
    ("protonet", {}),
    ("relation", {}),
    ("finetune", {"test_steps": 3}),
    ("logistic", {}),
    ("svm", {}),
    ("centroid", {}),
    ("transfer", {"size": 32}),
    pytest.param("pretrained", {"size": 32}, marks=needs_weights),
    pytest.param("combined", {"size": 32}, marks=needs_weights),
]


@pytest.mark.parametrize("way", [2, 3])
@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_the_network_that_is_written_answers_as_the_classifier(name: str, changes: dict[str, Any], way: int) -> None:
    predictor = predictor_of(name, way=way, **changes)
    images = between_classes(predictor)
    ours = deployed(predictor)(torch.from_numpy(images)).numpy()
    assert ours.shape == (9, way)
    assert np.abs(ours - told_by(predictor, images)).max() <= NEAR
    assert ours.std(0).max() > 1e-4, "answers that do not differ show nothing"


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_a_network_of_equal_parts_answers_as_their_mean(
    name: str, changes: dict[str, Any], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of(name, numbers=(1, 3), **changes)
    assert isinstance(predictor.classifier, Evenly)
    monkeypatch.setattr(Bundle, "temperature", temperature)
    images = between_classes(predictor)
    ours = deployed(predictor)(torch.from_numpy(images)).numpy()
    assert np.abs(ours - told_by(predictor, images)).max() <= NEAR
    assert ours.std(0).max() > 1e-4, "answers that do not differ show nothing"


@needs_onnx
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("daml", {"norm": "tasknorm", "head": "full"}),
        ("relation", {}),
        ("relation", {"norm": "group"}),
        ("logistic", {}),
        pytest.param("transfer", {"size": 32}, marks=pytest.mark.long),
        pytest.param("combined", {"size": 32}, marks=[needs_weights, pytest.mark.long]),
        pytest.param("pretrained", {"size": 32}, marks=[needs_weights, pytest.mark.long]),
    ],
)
def test_the_file_answers_as_the_classifier(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    predictor = predictor_of(name, **changes)
    session = export_module._session(export(predictor, tmp_path / "c.onnx").read_bytes())
    images = pixels(3, predictor.size)
    (ours,) = session.run(None, {"images": images})
    assert np.abs(ours - told_by(predictor, images)).max() <= NEAR


@needs_onnx
def test_an_answer_alone_equals_the_answer_in_a_batch_of_any_size(predictor: Predictor, model: bytes) -> None:
    session = export_module._session(model)
    images = pixels(17)
    (together,) = session.run(None, {"images": images})
    alone = np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])
    assert together.shape == (17, 3)
    assert np.abs(together - alone).max() <= SAME
    assert np.abs(together - told_by(predictor, images)).max() <= NEAR


@needs_onnx
def test_the_file_says_what_it_is_and_nothing_of_photographs_or_of_this_machine(
    predictor: Predictor, model: bytes
) -> None:
    told = export_module._session(model).get_modelmeta().custom_metadata_map
    assert json.loads(told.pop("classes")) == ["ä", "b", "c"]
    told.pop("rareshot")
    assert told == {
        "size": "28",
        "temperature": "1.0",
        "norm": "support",
        "method": "maml",
        "learner": "run",
        "learner_sha256": state_hash(predictor.bundle.state),
        "licence": "not known",
        "notice": "research use, not a medical device",
    }
    for secret in ("patient", ".py", str(ROOT), "stack_trace"):
        assert secret.encode() not in model


@needs_onnx
def test_the_command_writes_the_same_file_and_says_what_goes_in_and_out(
    predictor: Predictor, model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, out = save_bundle(tmp_path / "c.safetensors", predictor.bundle), tmp_path / "sub" / "c.onnx"
    assert main(["export", str(classifier), "--out", str(out)]) == 0
    assert out.read_bytes() == model
    said, err = capsys.readouterr()
    assert "images (n, 28, 28, 3) uint8 RGB → probabilities (n, 3) float32" in said
    assert not err
    assert main(["export", str(classifier), "--out", str(out)]) == 2
    assert "is there already; choose another --out" in capsys.readouterr().err


@needs_onnx
@pytest.mark.parametrize("turn", [1, 6])
def test_the_example_without_torch_gives_the_probabilities_of_predict(
    turn: int, predictor: Predictor, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    modules = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) or node.names[0].name for node in modules} == {  # type: ignore[attr-defined]
        "json",
        "numpy",
        "onnxruntime",
        "PIL",
    }
    monkeypatch.chdir(tmp_path)
    Path("lesions.onnx").write_bytes(model)
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (11, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    small.resize((341, 223), Image.Resampling.BICUBIC).save("new.jpg", exif=exif)  # large enough for `draft` to matter
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["classes"] == ["ä", "b", "c"]
    expected = answer(predictor, "new.jpg").probabilities
    assert np.abs(found["probabilities"] - expected).max() <= NEAR


@needs_onnx
def test_a_model_that_answers_otherwise_is_not_written(
    predictor: Predictor, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(predictor.classifier, EpisodicClassifier)
    params = dict(predictor.classifier.params)
    params["head.bias"] = params["head.bias"] + torch.tensor([1e-3, 0, 0])
    other = Predictor(predictor.bundle, replace(predictor.classifier, params=params))
    monkeypatch.setattr(export_module, "to_onnx", lambda predictor: model)
    with pytest.raises(
        ValueError, match=r"differ from the classifier's by \d.\de-04, more than 1e-05: nothing was written"
    ):
        export(other, tmp_path / "sub" / "c.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_a_model_whose_answer_depends_on_the_batch_is_refused(
    predictor: Predictor, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = export_module._ask
    monkeypatch.setattr(export_module, "_ask", lambda session, images: ask(session, images) + 2e-6 * (len(images) > 1))
    with pytest.raises(
        ValueError, match=r"alone and in a batch differ by 2\.\de-06, more than 1e-06: nothing was written"
    ):
        refuse_unfaithful(model, predictor)


def test_an_adaptation_that_diverged_still_says_that_it_knows_nothing(predictor: Predictor) -> None:
    assert isinstance(predictor.classifier, EpisodicClassifier)
    params = {name: value * torch.nan for name, value in predictor.classifier.params.items()}
    lost = Predictor(predictor.bundle, replace(predictor.classifier, params=params))
    assert torch.equal(deployed(lost)(torch.from_numpy(pixels(2))), torch.full((2, 3), 1 / 3))


def test_writing_leaves_the_classifier_as_it_was(predictor: Predictor) -> None:
    before = told_by(predictor, pixels(2))
    deployed(predictor)
    assert np.array_equal(told_by(predictor, pixels(2)), before)
    assert all(layer.frozen is None for layer in norms_of(predictor.classifier.learner.net))  # type: ignore[attr-defined]


@pytest.mark.parametrize("temperature", [0.3, 2.5, 9.0])
@pytest.mark.parametrize("name", ["maml", "protonet", "finetune"])  # protonet: so sure that probabilities are 0
def test_a_measured_temperature_is_inside(name: str, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = predictor_of(name)
    images = between_classes(cold)
    before = told_by(cold, images)
    monkeypatch.setattr(Bundle, "temperature", temperature)
    expected = told_by(cold, images)
    assert np.abs(expected - before).max() > 1e-3
    assert np.abs(deployed(cold)(torch.from_numpy(images)).numpy() - expected).max() <= NEAR


def test_a_prevalence_is_refused_with_the_way_out() -> None:
    rare = replace(predictor_of("maml"), prevalence={"ä": 0.9, "b": 0.1})
    with pytest.raises(
        ValueError, match="a prevalence is not exported: multiply the file's probabilities by the classes'"
    ):
        deployed(rare)


@needs_onnx
def test_a_network_that_torch_cannot_write_is_named(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise torch.onnx.OnnxExporterError("long story") from ValueError("no rule for aten::odd\nand more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ValueError, match=r"^MAML with conv4 cannot be written as ONNX: no rule for aten::odd$"):
        to_onnx(predictor)


def test_knn_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"knn cannot be exported: .* fit a learner of logistic, svm or centroid"):
        deployed(predictor_of("knn"))


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(tmp_path / "c.safetensors"), "--out", str(tmp_path / "c.onnx")]) == 2
    assert re.search(r"onnxscript.* is missing: pip install 'rareshot\[onnx\]'", capsys.readouterr().err)


def test_another_suffix_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "c.safetensors", "--out", str(tmp_path / "c.pt")]) == 2
    assert "the model goes into a file whose name ends in .onnx" in capsys.readouterr().err
