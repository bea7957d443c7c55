"""Dask's arrays and frames enter both classifiers, and leave them, as arrays in memory do."""

from __future__ import annotations

import os
import pickle
import time
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl
from xplinear.backends.base import GPU_COLUMNS
from xplinear.data.dask import Partitions
from xplinear.estimator.collected import _predicted

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
dask = pytest.importorskip("dask")
pd = pytest.importorskip("pandas")

CHUNKS = (90, 0, 130, 1, 79)
N = sum(CHUNKS)
DIGITS, DIGIT = load_digits(return_X_y=True)
X = DIGITS[:N, 2:14] / 16.0
Y = np.minimum(DIGIT[:N], 3)
S = np.random.default_rng(0).integers(0, 4, N).astype(float)
TEXTS = np.asarray(["zero", "one", "two", "more"])[Y]
TAGS = np.stack([Y == 0, Y > 1, DIGIT[:N] % 2], axis=1).astype(int)
FRAME = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
TIGHT = {"tol": 1e-8, "solver": "lbfgs", "alpha": 1e-2}


@pytest.fixture(autouse=True)
def in_this_thread():
    """Without a client: in one thread, for the time it takes."""
    with dask.config.set(scheduler="synchronous"):
        yield


def chunked(a, chunks=CHUNKS):
    a = np.asarray(a)
    return da.from_array(a, chunks=(chunks, *a.shape[1:]))


def frame(table, parts=CHUNKS):
    ends = np.cumsum([0, *parts])
    return dd.from_delayed(
        [dask.delayed(table.iloc[a:b]) for a, b in pairwise(ends)],
        meta=table.iloc[:0],
    )


def unknown(a):
    """Return an array whose chunk sizes are not known."""
    return chunked(a).map_blocks(
        np.asarray,
        chunks=(tuple(np.nan for _ in CHUNKS), *((s,) for s in np.shape(a)[1:])),
        dtype=np.asarray(a).dtype,
    )


@pytest.fixture(scope="module")
def clf():
    return xl.LinearClassifier(**TIGHT).fit(X, TEXTS)


def same(found, expected, atol=1e-9):
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=atol)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=atol)
    np.testing.assert_array_equal(found.classes_, expected.classes_)


FORMS = {
    "array": (chunked(X), chunked(Y), chunked(S)),
    "unknown": (unknown(X), unknown(Y), unknown(S)),
    "frame": (frame(FRAME), frame(pd.Series(Y)), frame(pd.Series(S))),
    "frame and arrays": (frame(FRAME), chunked(Y), unknown(S)),
    "array and series": (chunked(X), frame(pd.Series(Y)), chunked(S)),
    "values of a frame": (frame(FRAME).values, frame(pd.Series(Y)).values, chunked(S)),
    "labels on the host": (chunked(X), Y, S),
    "frame, labels on the host": (frame(FRAME), list(Y), S),
    "sparse": (chunked(X).map_blocks(csr_array), chunked(Y), chunked(S)),
    "sparse matrices": (chunked(X).map_blocks(csr_matrix), chunked(Y), chunked(S)),
}


class TestFit:
    @pytest.mark.parametrize("form", FORMS)
    def test_gives_what_arrays_in_memory_give(self, form):
        rows, labels, weights = FORMS[form]
        found = xl.LinearClassifier(**TIGHT).fit(rows, labels, weights)
        own = csr_array(X) if "sparse" in form else FRAME if "frame" in form else X
        own = X if form == "values of a frame" else own
        expected = xl.LinearClassifier(**TIGHT).fit(own, Y, S)
        same(found, expected)
        assert found.n_iter_ == expected.n_iter_
        names = getattr(expected, "feature_names_in_", None)
        np.testing.assert_array_equal(getattr(found, "feature_names_in_", None), names)

    @pytest.mark.parametrize(
        "settings",
        [
            {"standardize": True},
            {"class_weight": "balanced"},
            {"class_weight": {0: 0.5, 1: 2.0}},
            {"early_stopping": True, "random_state": 0},
            {"multi_class": "one_vs_rest"},
            {"fit_intercept": False},
            {"loss": "squared_hinge"},
            {"solver": "newton"},
            {"solver": "newton_cg"},
            {"dtype": "float32", "tol": 1e-3},
        ],
        ids=str,
    )
    def test_with_every_setting(self, settings):
        settings = TIGHT | settings
        found = xl.LinearClassifier(**settings).fit(chunked(X), chunked(Y), chunked(S))
        expected = xl.LinearClassifier(**settings).fit(X, Y, S)
        same(found, expected, atol=1e-6 if settings["tol"] < 1e-6 else 1e-3)

    @pytest.mark.parametrize(
        "settings", [{"penalty": "l1", "tol": 1e-8}, {"loss": "multiclass_hinge", "tol": 1e-5}]
    )
    def test_where_other_weights_are_as_good_or_another_solver_is_chosen(self, settings):
        found = xl.LinearClassifier(alpha=1e-2, **settings).fit(chunked(X), chunked(Y))
        expected = xl.LinearClassifier(alpha=1e-2, **settings).fit(X, Y)
        assert found.objective_ == pytest.approx(expected.objective_, rel=1e-4)

    def test_without_weights_and_of_integers(self):
        whole = (16 * X).astype(np.uint8)
        found = xl.LinearClassifier(**TIGHT).fit(chunked(whole), chunked(Y))
        same(found, xl.LinearClassifier(**TIGHT).fit(whole, Y))
        half = X.astype(np.float16)
        found = xl.LinearClassifier(**TIGHT).fit(chunked(half), chunked(Y))
        same(found, xl.LinearClassifier(**TIGHT).fit(half, Y))

    def test_the_result_is_an_ordinary_classifier(self, tmp_path):
        clf = xl.LinearClassifier(**TIGHT).fit(chunked(X), chunked(TEXTS))
        assert clf.backend_.name == "numpy"
        assert b"dask" not in pickle.dumps(clf)
        clf.save(tmp_path / "model.safetensors")
        loaded = xl.load(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(loaded.predict(X), clf.predict(X))

    def test_sgd_learns_and_is_the_same_again(self):
        settings = {"solver": "sgd", "random_state": 0, "max_iter": 20}
        one, two = (xl.LinearClassifier(**settings).fit(chunked(X), chunked(Y)) for _ in range(2))
        np.testing.assert_array_equal(one.coef_, two.coef_)
        assert one.score(X, Y) > 0.75

    def test_partial_fit_makes_one_epoch(self):
        clf = xl.LinearClassifier(random_state=0)
        for _ in range(5):
            clf.partial_fit(chunked(X), chunked(Y), classes=np.arange(4))
        assert clf.n_iter_ == 5
        assert clf.score(X, Y) > 0.7

    @pytest.mark.parametrize("form", [np.asarray, csr_array])
    def test_what_stands_in_rows_of_weight_0_does_not_matter(self, form):
        rows = np.where((S == 0)[:, None], 1e300 * (1.0 + X), X)
        settings = TIGHT | {"standardize": True}
        found = xl.LinearClassifier(**settings).fit(
            chunked(rows).map_blocks(form), chunked(Y), chunked(S)
        )
        same(found, xl.LinearClassifier(**settings).fit(form(X), Y, S))

    def test_is_computed_once(self):
        calls = []

        def counted(block):
            if block.size:
                calls.append(len(block))
            return block

        rows = chunked(X).map_blocks(counted, dtype=X.dtype, meta=X[:0])
        xl.LinearClassifier(alpha=0.1).fit(rows, (rows[:, 0] > 0.5).astype(int))
        assert sorted(calls) == sorted(size for size in CHUNKS if size)

    def test_callbacks_and_verbose(self, capsys):
        told, own = [], []
        clf = xl.LinearClassifier(**TIGHT, verbose=1)
        found = clf.fit(chunked(X), chunked(Y), callbacks=[lambda now: told.append(now.loss)])
        lines = capsys.readouterr().out.splitlines()
        expected = clf.fit(X, Y, callbacks=[lambda now: own.append(now.loss)])
        np.testing.assert_allclose(told, own)
        assert len(told) == found.n_iter_ == expected.n_iter_
        assert len(lines) == len(capsys.readouterr().out.splitlines()) > found.n_iter_ / 2
        stopped = xl.LinearClassifier(**TIGHT).fit(
            chunked(X), chunked(Y), callbacks=[lambda now: now.iteration == 3]
        )
        assert stopped.n_iter_ == 3

    def test_ctrl_c_keeps_the_best_so_far(self):
        def interrupted(progress):
            if progress.iteration == 3:
                raise KeyboardInterrupt

        clf = xl.LinearClassifier(**TIGHT)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(chunked(X), chunked(Y), callbacks=[interrupted])
        with pytest.warns(ConvergenceWarning):
            expected = xl.LinearClassifier(**TIGHT, max_iter=3).fit(chunked(X), chunked(Y))
        np.testing.assert_array_equal(clf.coef_, expected.coef_)

    def test_labels_on_a_cluster_and_rows_here(self):
        found = xl.LinearClassifier(**TIGHT).fit(X, chunked(Y), frame(pd.Series(S)))
        same(found, xl.LinearClassifier(**TIGHT).fit(X, Y, S))


class TestLabels:
    @pytest.mark.parametrize(
        "labels",
        [
            pd.Series(TEXTS),
            pd.Series(TEXTS).astype("category"),
            pd.Series(Y, dtype="Int64"),
            pd.Series(Y > 1),
            pd.Series(Y / 1.0),
            pd.Series(TEXTS, dtype=object),
        ],
        ids=lambda labels: str(labels.dtype),
    )
    def test_of_every_type(self, labels):
        found = xl.LinearClassifier(**TIGHT).fit(frame(FRAME), frame(labels))
        expected = xl.LinearClassifier(**TIGHT).fit(FRAME, labels)
        same(found, expected)
        assert found.classes_.dtype.kind == expected.classes_.dtype.kind

    def test_a_label_of_one_partition_alone(self):
        labels = np.where(np.arange(N) == CHUNKS[0] + CHUNKS[2], "ä rare one", TEXTS)
        found = xl.LinearClassifier(**TIGHT).fit(chunked(X), chunked(labels))
        same(found, xl.LinearClassifier(**TIGHT).fit(X, labels))

    def test_many_labels(self):
        found = xl.LinearClassifier(**TIGHT).fit(chunked(X), chunked(TAGS), chunked(S))
        expected = xl.LinearClassifier(**TIGHT).fit(X, TAGS, S)
        same(found, expected)
        np.testing.assert_array_equal(found.predict(chunked(X)).compute(), expected.predict(X))
        assert found.score(chunked(X), chunked(TAGS)) == expected.score(X, TAGS)

    def test_many_labels_in_a_frame_some_missing(self):
        tags = pd.DataFrame(TAGS.astype(float), columns=["a", "b", "c"])
        tags.iloc[CHUNKS[0] + 3 : CHUNKS[0] + 9, 1] = np.nan
        found = xl.LinearClassifier(**TIGHT).fit(frame(FRAME), frame(tags))
        same(found, xl.LinearClassifier(**TIGHT).fit(FRAME, tags))

    def test_one_class_overall_is_refused_and_in_a_partition_not(self):
        labels = np.repeat([0, 1], [CHUNKS[0], N - CHUNKS[0]])
        found = xl.LinearClassifier(**TIGHT).fit(chunked(X), chunked(labels))
        same(found, xl.LinearClassifier(**TIGHT).fit(X, labels))
        with pytest.raises(ValueError, match="y has one class only"):
            xl.LinearClassifier().fit(chunked(X), chunked(np.zeros(N)))

    def test_a_column_is_a_vector_with_a_warning(self):
        from sklearn.exceptions import DataConversionWarning

        with pytest.warns(DataConversionWarning, match="column-vector"):
            found = xl.LinearClassifier(**TIGHT).fit(chunked(X), chunked(Y[:, None]))
        same(found, xl.LinearClassifier(**TIGHT).fit(X, Y))


class TestPredict:
    @pytest.mark.parametrize(
        "method", ["predict", "predict_proba", "predict_log_proba", "decision_function"]
    )
    @pytest.mark.parametrize("labels", [TEXTS, Y > 1, TAGS], ids=["four", "two", "tags"])
    def test_is_lazy_and_in_the_chunks_of_x(self, method, labels):
        clf = xl.LinearClassifier(**TIGHT).fit(X, labels)
        expected = getattr(clf, method)(X)
        found = getattr(clf, method)(chunked(X))
        assert isinstance(found, da.Array)
        assert found.chunks[0] == CHUNKS
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(*map(_numbers, (found.compute(), expected)), atol=1e-12)
        found = getattr(clf, method)(unknown(X))
        assert np.isnan(found.shape[0])
        assert found.shape[1:] == expected.shape[1:]
        np.testing.assert_allclose(*map(_numbers, (found.compute(), expected)), atol=1e-12)
        sparse = getattr(clf, method)(chunked(X).map_blocks(csr_array)).compute()
        np.testing.assert_allclose(*map(_numbers, (sparse, expected)), atol=1e-12)

    def test_a_frame_gives_a_series_with_its_index(self):
        table = FRAME.set_index(np.arange(N) * 2 + 7)
        clf = xl.LinearClassifier(**TIGHT).fit(table, TEXTS)
        labels, shares = clf.predict(frame(table)), clf.predict_proba(frame(table))
        assert type(labels).__name__ == "Series"
        assert list(shares.columns) == clf.classes_.tolist()
        found = labels.compute()
        assert found.dtype == labels.dtype
        pd.testing.assert_index_equal(found.index, table.index)
        np.testing.assert_array_equal(found, clf.predict(table))
        np.testing.assert_allclose(shares.compute(), clf.predict_proba(table), atol=1e-12)
        assert clf.score(frame(table), frame(pd.Series(TEXTS, index=table.index))) == clf.score(
            table, TEXTS
        )

    def test_is_of_the_model_as_it_was(self, clf):
        model = xl.LinearClassifier(**TIGHT).fit(X, Y)
        found, expected = model.predict(chunked(X)), model.predict(X)
        model.fit(X, 3 - Y)
        np.testing.assert_array_equal(found.compute(), expected)

    def test_blocks_are_partitions(self, clf, tmp_path):
        blocks = list(clf.predict_blocks(chunked(X), "predict_proba"))
        assert [len(block) for block in blocks] == list(chunked(X).chunks[0])
        np.testing.assert_allclose(np.concatenate(blocks), clf.predict_proba(X), rtol=1e-12)
        clf.predict(chunked(X), out=tmp_path / "labels.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), clf.predict(X))

    def test_score(self, clf):
        expected = clf.score(X, TEXTS, S)
        assert clf.score(chunked(X), chunked(TEXTS), chunked(S)) == expected
        assert clf.score(chunked(X), TEXTS, S) == expected
        assert clf.score(X, chunked(TEXTS), chunked(S)) == expected

    def test_computes_nothing_before_it_is_asked_to(self, clf):
        def never(block):
            raise AssertionError

        rows = chunked(X).map_blocks(never, dtype=X.dtype, meta=X[:0])
        assert clf.predict(rows).shape == (N,)
        with pytest.raises(ValueError, match="12 features"):
            clf.predict(rows[:, :3])

    def test_computes_where_the_rows_are_and_answers_on_the_host(self, clf):
        torch = pytest.importorskip("torch")
        found = _predicted("predict_proba", torch.asarray(X), clf)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, clf.predict_proba(X), atol=1e-12)

    def test_nan_is_refused_when_it_is_computed(self, clf):
        rows = X.copy()
        rows[7, 3] = np.nan
        table = pd.DataFrame(rows, columns=FRAME.columns)
        with pytest.raises(ValueError, match=r"X contains NaN.*x3"):
            xl.LinearClassifier(**TIGHT).fit(FRAME, Y).predict(frame(table)).compute()
        with pytest.raises(ValueError, match="X contains NaN"):
            clf.predict(chunked(rows)).compute()

    def test_other_columns_are_refused_at_once(self):
        clf = xl.LinearClassifier(**TIGHT).fit(FRAME, Y)
        with pytest.raises(ValueError, match="feature names"):
            clf.predict(frame(FRAME.rename(columns={"x0": "other"})))


def _numbers(a):
    return np.unique(TEXTS).searchsorted(a) if a.dtype.kind in "OU" else a


SWEEP = {"alphas": [1.0, 0.1, 0.01], "solver": "lbfgs", "tol": 1e-8}


class TestSweep:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"scoring": "roc_auc", "standardize": True},
            {"scoring": "log_loss", "class_weight": "balanced"},
            {"held_out_scores": True, "one_standard_error": True},
            {"Cs": [1.0, 10.0], "alphas": None},
            {"multi_class": "one_vs_rest"},
            {"scoring": "neg_brier"},
            {"scoring": "scorer"},
        ],
        ids=str,
    )
    @pytest.mark.usefixtures("ends_of_grids_and_rounding")
    def test_gives_what_arrays_in_memory_give(self, settings):
        from sklearn.metrics import log_loss, make_scorer

        callables = {
            "scorer": make_scorer(
                log_loss, response_method="predict_proba", greater_is_better=False, labels=range(4)
            ),
            "neg_brier": lambda y, Z: -np.mean((Z - np.eye(4)[y]) ** 2),
        }
        settings = SWEEP | settings
        if settings.get("scoring") in callables:
            settings["scoring"] = callables[settings["scoring"]]
        found = xl.LinearClassifierCV(**settings).fit(chunked(X), chunked(Y), chunked(S))
        expected = xl.LinearClassifierCV(**settings).fit(X, Y, S)
        np.testing.assert_allclose(found.cv_scores_, expected.cv_scores_, atol=1e-6)
        np.testing.assert_array_equal(found.alpha_, expected.alpha_)
        same(found, expected, atol=1e-6)
        if settings.get("held_out_scores"):
            np.testing.assert_allclose(found.held_out_scores_, expected.held_out_scores_, atol=1e-5)

    @pytest.mark.usefixtures("ends_of_grids_and_rounding")
    def test_of_frames_with_groups_and_of_many_labels(self):
        from sklearn.model_selection import GroupKFold

        groups = np.arange(N) % 7
        settings = SWEEP | {"cv": GroupKFold(3)}
        found = xl.LinearClassifierCV(**settings).fit(
            frame(FRAME), frame(pd.Series(TEXTS)), groups=chunked(groups)
        )
        expected = xl.LinearClassifierCV(**settings).fit(FRAME, TEXTS, groups=groups)
        same(found, expected, atol=1e-6)
        found = xl.LinearClassifierCV(**SWEEP).fit(chunked(X), chunked(TAGS))
        expected = xl.LinearClassifierCV(**SWEEP).fit(X, TAGS)
        same(found, expected, atol=1e-6)
        np.testing.assert_array_equal(found.predict(chunked(X)).compute(), expected.predict(X))

    @pytest.mark.usefixtures("ends_of_grids_and_rounding")
    def test_needs_few_more_rounds_than_its_longest_path(self, monkeypatch):
        made, columns = [], 1

        def counted(*args):
            made.append(Wide(*args))
            return made[-1]

        class Wide(Partitions):
            @property
            def free_columns(self):
                return columns

        monkeypatch.setattr("xplinear.estimator.collected.Partitions", counted)
        settings = {"alphas": np.logspace(0, -4, 20), "solver": "lbfgs"}
        alone = [(np.arange(N), np.arange(30))]
        xl.LinearClassifierCV(**settings, cv=alone, refit=False).fit(chunked(X), chunked(Y))
        columns = GPU_COLUMNS  # as many as on a cluster
        found = xl.LinearClassifierCV(**settings).fit(chunked(X), chunked(Y))
        path, sweep = (rows.rounds for rows in made)
        assert sweep <= 1.3 * path
        expected = xl.LinearClassifierCV(**settings).fit(X, Y)
        assert found.alpha_ == expected.alpha_
        np.testing.assert_allclose(found.cv_scores_, expected.cv_scores_, atol=0.02)

    def test_a_scorer_of_rows_is_refused(self):
        def own(estimator, X, y):
            return 0.0

        with pytest.raises(TypeError, match="rows of X"):
            xl.LinearClassifierCV([1.0], scoring=own).fit(chunked(X), chunked(Y))


BAD = {
    "columns in chunks": (
        lambda: (da.from_array(X, chunks=(100, 5)), chunked(Y)),
        ValueError,
        r"columns in 3 chunks.*X\.rechunk\(\{1: -1\}\)",
    ),
    "y in other chunks": (
        lambda: (chunked(X), da.from_array(Y, chunks=100)),
        ValueError,
        r"y is not partitioned as X.*\(100, 100, 100\) against.*y\.rechunk",
    ),
    "weights in other chunks": (
        lambda: (chunked(X), chunked(Y), da.from_array(S, chunks=100)),
        ValueError,
        "sample_weight is not partitioned as X",
    ),
    "y in other unknown chunks": (
        lambda: (unknown(X), chunked(Y, (91, 0, 129, 1, 79)).map_blocks(np.asarray)),
        ValueError,
        "partition 0 has 90 rows of X and 91 of y",
    ),
    "y shorter": (lambda: (chunked(X), chunked(Y[:-79], CHUNKS[:-1])), ValueError, "y is not part"),
    "y on the host, longer": (
        lambda: (chunked(X), np.append(Y, 0)),
        ValueError,
        r"inconsistent.*\[300, 301\]",
    ),
    "other divisions": (
        lambda: (dd.from_pandas(FRAME, npartitions=3), dd.from_pandas(pd.Series(Y), npartitions=4)),
        ValueError,
        "y is not partitioned as X.*repartition",
    ),
    "object": (lambda: (chunked(X.astype(object)), chunked(Y)), ValueError, "dtype object"),
    "dates": (
        lambda: (chunked(X.astype("M8[s]")), chunked(Y)),
        (ValueError, TypeError),
        "datetime64",
    ),
    "complex": (lambda: (chunked(X + 0j), chunked(Y)), ValueError, "[Cc]omplex"),
    "three axes": (lambda: (chunked(X[:, :, None]), chunked(Y)), ValueError, "two axes"),
    "text column": (
        lambda: (frame(FRAME.assign(t=TEXTS)), frame(pd.Series(Y))),
        ValueError,
        "column 't'",
    ),
    "date column": (
        lambda: (frame(FRAME.assign(t=pd.Timestamp("2020-01-01"))), frame(pd.Series(Y))),
        ValueError,
        "column 't'",
    ),
    "delayed rows": (lambda: (dask.delayed(X), chunked(Y)), TypeError, "X is of Dask's .*Delayed"),
    "delayed labels": (
        lambda: (chunked(X), dask.delayed(Y)),
        TypeError,
        "y is of Dask's .*Delayed.*give an array",
    ),
    "y of three axes": (
        lambda: (chunked(X), chunked(np.zeros((N, 2, 2)))),
        ValueError,
        r"y must have one entry for each row.*\(300, 2, 2\)",
    ),
    "a series as X": (
        lambda: (frame(pd.Series(Y)), frame(pd.Series(Y))),
        TypeError,
        "X is of Dask",
    ),
    "no rows": (
        lambda: (chunked(X[:0], (0, 0)), chunked(Y[:0], (0, 0))),
        ValueError,
        "X has no rows",
    ),
    "negative weight": (
        lambda: (chunked(X), chunked(Y), chunked(np.where(np.arange(N) == 200, -1.0, S))),
        ValueError,
        "negative",
    ),
    "label missing": (
        lambda: (frame(FRAME), frame(pd.Series(np.where(np.arange(N) == 200, None, TEXTS)))),
        ValueError,
        "labels are missing",
    ),
    "another backend": (
        lambda: (chunked(X), chunked(Y), None, {"backend": "array_api_strict"}),
        ValueError,
        "backend",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    make, error, message = BAD[case]
    rows, labels, *more = make()
    weights, settings = (*more, None, {})[:2] if len(more) < 2 else more
    with pytest.raises(error, match=message):
        xl.LinearClassifier(**(settings or {})).fit(rows, labels, weights)


@pytest.mark.parametrize("form", ["array", "sparse", "frame", "nullable"])
def test_nan_is_named_by_its_row_and_column(form):
    rows, at = X.copy(), (CHUNKS[0] + 17, 4)
    rows[at] = np.nan
    table = pd.DataFrame(rows, columns=FRAME.columns)
    given = {
        "array": lambda: chunked(rows),
        "sparse": lambda: chunked(rows).map_blocks(csr_array),
        "frame": lambda: frame(table),
        "nullable": lambda: frame(table.convert_dtypes()),
    }[form]()
    column = "x4" if form in ("frame", "nullable") else "column 4"
    with pytest.raises(ValueError, match=rf"NaN.*{column}|{column}.*NaN") as error:
        xl.LinearClassifier().fit(given, chunked(Y))
    assert f"row {at[0]}" in str(error.value)


def dies(block):
    if len(block) == CHUNKS[0]:
        os._exit(1)
    return block


class TestCluster:
    """On workers, whose client is nobody's default."""

    @pytest.fixture
    def held(self, dask_client):
        arrays = dask_client.persist([chunked(X), chunked(TEXTS), chunked(S)])
        yield arrays
        dask_client.cancel(arrays)

    def test_gives_what_one_machine_gives(self, dask_client, held):
        rows, labels, weights = held
        before = set(dask_client.futures)
        found = xl.LinearClassifier(**TIGHT).fit(rows, labels, weights)
        for _ in range(100):  # nothing is held any more
            if set(dask_client.futures) == before:
                break
            time.sleep(0.1)
        assert set(dask_client.futures) == before
        expected = xl.LinearClassifier(**TIGHT).fit(X, TEXTS, S)
        same(found, expected)
        assert found.score(rows, labels) == expected.score(X, TEXTS)
        lazy = found.predict_proba(rows)
        np.testing.assert_allclose(
            dask_client.compute(lazy).result(), expected.predict_proba(X), atol=1e-9
        )

    def test_takes_the_default_client(self, dask_client):
        with dask_client.as_current(), dask.config.set(scheduler=dask_client):
            found = xl.LinearClassifier(**TIGHT).fit(frame(FRAME), frame(pd.Series(TEXTS)))
            labels = found.predict(frame(FRAME)).compute()
        expected = xl.LinearClassifier(**TIGHT).fit(FRAME, TEXTS)
        same(found, expected)
        np.testing.assert_array_equal(labels, expected.predict(FRAME))

    def test_rows_are_let_go_after_ctrl_c(self, dask_client, held):
        def interrupted(progress):
            if progress.iteration == 2:
                raise KeyboardInterrupt

        rows, labels, _ = held
        before = set(dask_client.futures)
        with pytest.raises(KeyboardInterrupt):
            xl.LinearClassifier(**TIGHT).fit(rows + 1.0, labels, callbacks=[interrupted])
        for _ in range(100):
            if set(dask_client.futures) == before:
                break
            time.sleep(0.1)
        assert set(dask_client.futures) == before

    def test_workers_that_die_while_rows_are_made(self, dask_client, monkeypatch):
        monkeypatch.setattr(dask_client.cluster.scheduler, "allowed_failures", 0)
        rows = chunked(X).map_blocks(dies, dtype=X.dtype, meta=X[:0])
        with (
            pytest.raises(RuntimeError, match="make its chunks smaller"),
            dask_client.as_current(),
            dask.config.set(scheduler=dask_client),
        ):
            xl.LinearClassifier(**TIGHT).fit(rows, chunked(Y))

    @pytest.mark.usefixtures("ends_of_grids_and_rounding")
    def test_a_sweep(self, held):
        rows, labels, _ = held
        settings = {"alphas": [1.0, 0.1], "cv": 3, "tol": 1e-6, "solver": "lbfgs"}
        found = xl.LinearClassifierCV(**settings).fit(rows, labels)
        expected = xl.LinearClassifierCV(**settings).fit(X, TEXTS)
        np.testing.assert_allclose(found.cv_scores_, expected.cv_scores_, atol=1e-6)
        same(found, expected, atol=1e-5)

    def test_two_clients_and_one_that_is_closed_are_refused(self, dask_client, held):
        import distributed

        rows, _, _ = held
        with distributed.Client(dask_client.scheduler.address, set_as_default=False) as other:
            foreign = other.persist(chunked(TEXTS))
            with pytest.raises(ValueError, match="several Dask clients"):
                xl.LinearClassifier().fit(rows, foreign)
        with pytest.raises(ValueError, match="client that is closed"):
            xl.LinearClassifier().fit(rows, foreign)
