"""ONNX files, run by onnxruntime, predict what the classifier predicts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import xplinear as xl
from xplinear.losses import LOSSES

X = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
NEW = np.random.default_rng(1).standard_normal((500, 5)).astype(np.float32)
CODES = np.argmax(X[:, :3], axis=1)
NAMES = np.asarray(["cat", "dog", "frög"])


def outputs(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("X", "tensor(float)", ["n", 5])
    return dict(
        zip((o.name for o in session.get_outputs()), session.run(None, {"X": NEW}), strict=True)
    )


@pytest.mark.parametrize(
    "labels",
    [CODES, NAMES[CODES], NAMES.astype(object)[CODES], CODES == 1, NAMES[CODES % 2], CODES * 2.0],
    ids=["three", "three names", "objects", "bool", "two names", "floats"],
)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore:the objective is")  # three epochs
def test_predicts_the_same(loss, labels, tmp_path):
    pytest.importorskip("onnx")
    clf = xl.LinearClassifier(loss, alpha=0.05, solver="sgd", max_iter=3, random_state=0)
    clf.fit(X, labels)
    clf.to_onnx(tmp_path / "m.onnx")
    found = outputs(tmp_path / "m.onnx")
    np.testing.assert_array_equal(found["label"], clf.predict(NEW))
    if loss == "softmax":
        np.testing.assert_allclose(found["probabilities"], clf.predict_proba(NEW), atol=1e-6)
    else:
        scores, expected = found["scores"], clf.decision_function(NEW)
        scores = scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)


def test_from_every_backend(backend, tmp_path):
    pytest.importorskip("onnx")
    clf = xl.LinearClassifier(alpha=0.05, random_state=0).fit(backend.asarray(X), CODES)
    clf.to_onnx(str(tmp_path / "m.onnx"))
    expected = clf.to("numpy").predict_proba(NEW)
    np.testing.assert_allclose(outputs(tmp_path / "m.onnx")["probabilities"], expected, atol=1e-6)


def test_what_cannot_be_written(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(Exception, match="not fitted"):
        xl.LinearClassifier().to_onnx(tmp_path / "m.onnx")
    params = xl.Params(np.ones((5, 1, 1)), np.zeros((1, 1)))
    clf = xl.LinearClassifier.from_params(params, np.asarray(["2020", "2021"], "M8[D]"))
    with pytest.raises(TypeError, match="labels must be numbers or strings"):
        clf.to_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx():
    code = (
        "import sys; sys.modules['onnx'] = None; import numpy as np, xplinear as xl\n"
        "xl.LinearClassifier().fit(np.eye(2), [0, 1]).to_onnx('m.onnx')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'xplinear[onnx]'" in done.stderr
