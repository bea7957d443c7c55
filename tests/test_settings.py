"""Every parameter is written once: what the classifiers take, keep and are told."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from typing import get_type_hints

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import xplinear as xl
from xplinear.arguments import ArgumentError
from xplinear.estimator.problem import prepare
from xplinear.estimator.settings import Settings, SharedParameters, given
from xplinear.formats.fitted import fitted_of, keep
from xplinear.penalties import ElasticNetPenalty, NoPenalty

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 4))
Y = np.argmax(X[:, :3], axis=1)
SEARCHED = {"alphas", "Cs", "cv", "scoring", "one_standard_error", "learning_rates", "refit"}
SEARCHED |= {"held_out_scores", "alpha_per_label"}


def documented(kind):
    """Return the defaults that a docstring tells."""
    entries = re.findall(r"^(\w+) : .*, default (.+)$", inspect.getdoc(kind), re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in entries}


@pytest.mark.parametrize("kind", [xl.LinearClassifier, xl.LinearClassifierCV])
def test_defaults_are_those_documented(kind):
    told, own = documented(kind), kind().get_params()
    assert len(told) > 4
    assert told == {name: own[name] for name in told}


@pytest.mark.parametrize("kind", [xl.LinearClassifier, xl.LinearClassifierCV])
def test_what_a_parameter_may_be_can_be_read(kind):
    types = get_type_hints(kind.__init__)
    assert set(types) == set(kind().get_params()) | {"return"}
    assert types["loss"] == str | xl.losses.Loss


def test_both_classifiers_take_what_a_fit_is_told():
    settings = {one.name: one.default for one in fields(Settings)}
    shared = {one.name for one in fields(SharedParameters)}
    assert xl.LinearClassifier().get_params() == settings
    search = xl.LinearClassifierCV().get_params()
    assert set(search) == shared | SEARCHED
    assert {name: search[name] for name in shared} == {name: settings[name] for name in shared}


def test_parameters_are_kept_as_they_are_given():
    alpha, weights = np.float32(0.5), {0: 1.0, 1: 2}
    clf = xl.LinearClassifier("squared_hinge", alpha=alpha, class_weight=weights)
    assert clf.alpha is alpha
    assert clf.class_weight is weights
    assert clone(clf).get_params() == clf.get_params()
    assert vars(xl.LinearClassifier()) == xl.LinearClassifier().get_params()
    assert repr(clf.set_params(alpha=None)) == (
        "LinearClassifier(class_weight={0: 1.0, 1: 2}, loss='squared_hinge')"
    )


def test_settings_are_plain_and_stay():
    settings = given(Settings, xl.LinearClassifier(alpha=np.float32(0.5), tol=np.asarray(0.25)))
    assert (type(settings.alpha), settings.alpha, settings.tol) == (float, 0.5, 0.25)
    with pytest.raises(FrozenInstanceError):
        settings.alpha = 1.0
    with pytest.raises(ArgumentError, match="momentum must be a number in"):
        replace(settings, momentum=1.0)


def test_a_penalty_by_name_is_told_its_share():
    assert Settings(penalty="elastic_net", l1_ratio=0.3).penalty == ElasticNetPenalty(0.3)
    own = Settings(penalty=ElasticNetPenalty(0.4), l1_ratio=0.3)
    assert replace(own, tol=0.1).penalty == ElasticNetPenalty(0.4)
    assert Settings(penalty=None).penalty == NoPenalty()


def test_two_strengths():
    with pytest.raises(ValueError, match=r"alpha=0.1 and C=2.0 are two ways .*only one of them$"):
        Settings(alpha=0.1, C=2.0)


def test_what_is_prepared_changes_nothing():
    clf = xl.LinearClassifier().fit(X, Y)
    before = dict(vars(clf))
    problem = prepare(given(Settings, clf), 3.0 * X, Y > 0, owner=clf)
    assert problem.sample.classes.tolist() == [False, True]
    assert vars(clf) == before


def test_a_fit_takes_the_attributes_of_the_last_one_away():
    clf = xl.LinearClassifier().fit(X, Y)
    clf.feature_names_in_ = np.asarray(list("abcd"), dtype=object)
    clf.set_params(solver="sgd", random_state=0).fit(X, Y)
    gone = {"feature_names_in_", "certificate_"}
    assert not gone & set(vars(clf))
    with pytest.raises(NotFittedError):
        fitted_of(xl.LinearClassifier())


def test_a_model_is_one_value(backend):
    clf = xl.LinearClassifier().fit(backend.asarray(1e5 + X), Y)
    again = xl.LinearClassifier()
    keep(again, fitted_of(clf))
    assert vars(again).keys() == vars(clf).keys()
    rows = backend.asarray(1e5 + X)
    expected = backend.to_numpy(clf.decision_function(rows))
    np.testing.assert_array_equal(backend.to_numpy(again.decision_function(rows)), expected)
    on_host = fitted_of(clf).to("numpy")
    assert on_host.near is not None
    assert isinstance(on_host.near.params.W, np.ndarray)
    assert type(on_host.near.standard) is type(fitted_of(clf).near.standard)


def test_pickles_of_before_know_less():
    clf = xl.LinearClassifier(random_state=0).fit(X, Y)
    state = {name: a for name, a in vars(clf).items() if not name.startswith("_")}
    old = xl.LinearClassifier.__new__(xl.LinearClassifier)
    old.__setstate__(state | {"_shifted": None})
    for one in (old, pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(one.predict(X), clf.predict(X))
        one.partial_fit(X, Y)
        assert one.alpha_ == clf.alpha_


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_weights_that_are_integers(backend, dtype):
    W, b = np.asarray([[[2, 0, -1]], [[1, 1, 0]]]), np.asarray([[0, 3, 1]])
    params = xl.Params(*(backend.backend.asarray(a.astype(dtype)) for a in (W, b)))
    clf = xl.LinearClassifier.from_params(params, ["a", "b", "c"])
    rows = np.asarray([[1.0, 0.5], [-2.0, 4.0]])
    scores = backend.to_numpy(clf.decision_function(backend.asarray(rows)))
    np.testing.assert_allclose(scores, rows @ W[:, 0, :] + b, rtol=1e-6)


def test_more_strengths_than_anyone_chooses_among():
    with pytest.raises(ValueError, match=r"alphas=1000000 is how many .*\[1000000\] is one"):
        xl.LinearClassifierCV(alphas=10**6).fit(X, Y)
