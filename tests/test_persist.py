"""Saving and loading: what comes back is what was fitted; damaged files say so."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import xplinear as xl

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 4))
Y = np.argmax(X[:, :3], axis=1)


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        (Y == 1).astype(int),
        np.asarray(["cat", "dog", "frog"])[Y],
        np.asarray(["cat", "dog", "frog"], dtype=object)[Y],
        np.asarray([0.0, 2.0, 4.0])[Y],
        Y == 1,
    ],
)
def test_a_round_trip_changes_nothing(backend, tmp_path, labels):
    clf = xl.LinearClassifier(alpha=0.01, random_state=0).fit(backend.asarray(X), labels)
    clf.save(tmp_path / "model.safetensors")
    again = xl.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.coef_, backend.to_numpy(clf.coef_))
    np.testing.assert_array_equal(again.predict(X), clf.to("numpy").predict(X))
    assert again.predict(X).dtype == np.asarray(labels).dtype
    assert again.get_params() == clf.get_params()
    assert (again.alpha_, again.objective_) == (clf.alpha_, clf.objective_)
    assert again.solver_ == again.to("numpy").solver_ == clf.solver_ == "newton"
    assert again.n_iter_ == clf.n_iter_
    np.testing.assert_array_equal(again.history_["loss"], clf.history_["loss"])
    there = xl.load(tmp_path / "model.safetensors", backend=backend.backend)
    assert there.backend_.name == backend.backend.name


def test_objects_and_class_weights_round_trip(tmp_path):
    clf = xl.LinearClassifier(
        xl.losses.MulticlassHingeLoss(margin=2.0),
        penalty=xl.penalties.ElasticNetPenalty(0.3),
        solver=xl.solvers.SGD(max_iter=3, schedule="cosine"),
        class_weight={0: 2.0, 1: 1.0, 2: 0.5},
    ).fit(X, Y)
    clf.save(tmp_path / "m.safetensors")
    assert xl.load(tmp_path / "m.safetensors").get_params() == clf.get_params()


class OwnLoss(xl.losses.SoftmaxLoss):
    pass


def test_what_would_need_code_is_refused(tmp_path):
    of_the_same_name = type("SoftmaxLoss", (xl.losses.SoftmaxLoss,), {})
    for loss in (OwnLoss(), of_the_same_name()):
        clf = xl.LinearClassifier(loss).fit(X, Y)
        with pytest.raises(TypeError, match=r"loss=.*not one of xplinear's own.*use pickle"):
            clf.save(tmp_path / "m.safetensors")
        assert not list(tmp_path.iterdir())


def test_what_is_registered_later_is_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(xl.losses.LOSSES, "own", OwnLoss)
    clf = xl.LinearClassifier(OwnLoss()).fit(X, Y)
    clf.save(tmp_path / "m.safetensors")
    assert type(xl.load(tmp_path / "m.safetensors").loss) is OwnLoss


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    clf = xl.LinearClassifier(random_state=0).fit(X, Y)
    clf.save(path)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("xplinear.formats.tensors.serialized", full_disk)
    with pytest.raises(OSError, match="no space left"):
        clf.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="no model file"):
        xl.load(path)
    path.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        xl.load(path)
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(ValueError, match="was not written by xplinear"):
        xl.load(path)
    save_file({"a": np.ones(3)}, path, {"format": "xplinear", "version": "999", "content": "{}"})
    with pytest.raises(ValueError, match=r"format version 999.*upgrade xplinear"):
        xl.load(path)
    save_file({"a": np.ones(3)}, path, {"format": "xplinear", "version": "1", "content": "{}"})
    with pytest.raises(ValueError, match=r"is damaged: .*save it again"):
        xl.load(path)
    xl.LinearClassifier(random_state=0).fit(X, Y).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        xl.load(path)


def test_a_byte_changed_anywhere(tmp_path):
    path = tmp_path / "m.safetensors"
    xl.LinearClassifier(random_state=0).fit(X, Y).save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for end in (0, 4, 8, 100, header, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"is damaged.*save it again"):
            xl.load(path)
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"is damaged|not written by xplinear|format version"):
            xl.load(path)


@pytest.mark.parametrize("change", [{"W": np.ones((2, 1, 6))}, {"b": None}, {"more": np.ones(1)}])
def test_other_numbers_than_were_written(tmp_path, change):
    path = tmp_path / "m.safetensors"
    xl.LinearClassifier(random_state=0).fit(X, Y).save(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path) | change
    save_file({name: a for name, a in tensors.items() if a is not None}, path, metadata)
    with pytest.raises(ValueError, match=r"is damaged: .*; save it again"):
        xl.load(path)


def test_a_file_of_another_version_says_so(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    clf = xl.LinearClassifier(random_state=0).fit(X, Y)
    settings = clf.get_params()
    monkeypatch.setattr(clf, "get_params", lambda deep: settings | {"temperature": 1.0})
    clf.save(path)
    with pytest.raises(ValueError, match=r"was written by xplinear .*temperature.*upgrade"):
        xl.load(path)


def test_labels_in_foreign_byte_order(tmp_path):
    path = tmp_path / "m.safetensors"
    clf = xl.LinearClassifier(random_state=0).fit(X.astype(">f8"), Y.astype(">i8"))
    clf.save(path)
    np.testing.assert_array_equal(xl.load(path).predict(X), clf.predict(X))


def test_an_unfitted_classifier_cannot_be_saved(tmp_path):
    with pytest.raises(Exception, match="not fitted"):
        xl.LinearClassifier().save(tmp_path / "m.safetensors")


def test_an_alpha_that_is_an_array_of_one_number(tmp_path):
    clf = xl.LinearClassifier(alpha=np.asarray(0.1)).fit([[0.0], [1.0]], [0, 1])
    clf.save(tmp_path / "m.safetensors")
    assert xl.load(tmp_path / "m.safetensors").alpha == 0.1
