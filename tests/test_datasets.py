from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file

from xplinear import datasets
from xplinear.datasets import Dataset, holdout, load

X = np.asarray([[1.5, 0.0, 3.0], [0.0, -2.25, 1e-3], [7.0, 8.0, 9.0], [1.0, 1.0, 1.0]])
Y = np.asarray([2, 0, 2, 1])


def rejected(source: str | Path, message: str, error: type[Exception] = ValueError, **options):
    with pytest.raises(error, match=re.escape(message)):
        load(source, **options)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def idx_directory(folder: Path, suffix: str = "") -> Path:
    images = np.arange(6 * 4 * 5).reshape(6, 4, 5)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", np.asarray([0, 1, 2, 0, 1, 2]))
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", images[:2])
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", np.asarray([0, 1]))
    return folder


class TestNames:
    def test_digits(self):
        data = load("digits")
        assert data.X.shape == (1797, 64)
        assert data.image_shape == (8, 8)
        assert data.X_test is None
        assert set(data.y.tolist()) == set(range(10))

    @pytest.mark.skipif(
        not datasets.loading._FASHION_MNIST.is_dir(),
        reason="needs the package dataset-fashion-mnist",
    )
    def test_fashion_mnist_has_its_official_split(self):
        data = load("fashion-mnist")
        assert data.X.shape == (60000, 784)
        assert data.X_test.shape == (10000, 784)
        assert data.X.dtype == data.X_test.dtype == np.uint8
        assert data.image_shape == (28, 28)
        assert data.y[:5].tolist() == [9, 0, 0, 3, 0]
        assert np.bincount(data.y).tolist() == [6000] * 10
        assert holdout(data) is data

    def test_fashion_mnist_from_openml(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.loading, "_FASHION_MNIST", tmp_path / "absent")
        images, labels = np.full((70000, 784), 7.0), np.asarray(["3", "5"] * 35000)
        monkeypatch.setattr(datasets.loading, "fetch_openml", lambda *_, **__: (images, labels))
        data = load("fashion-mnist")
        assert data.X.shape == (60000, 784)
        assert data.X_test.shape == (10000, 784)
        assert data.X.dtype == np.uint8
        assert data.image_shape == (28, 28)
        assert data.y[:2].tolist() == [3, 5]

    def test_fashion_mnist_offline_says_where_to_get_it(self, tmp_path, monkeypatch):
        def offline(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(datasets.loading, "_FASHION_MNIST", tmp_path / "absent")
        monkeypatch.setattr(datasets.loading, "fetch_openml", offline)
        rejected("fashion-mnist", "install the Debian package dataset-fashion-mnist", OSError)

    def test_unknown(self, tmp_path):
        rejected("mnist", "unknown data set 'mnist': give digits, fashion-mnist, a directory")
        (tmp_path / "data.xlsx").write_bytes(b"")
        rejected(tmp_path / "data.xlsx", "a file ending in .npz, .npy, .csv, .csv.gz, .tsv")

    def test_target_does_not_apply(self):
        rejected("digits", "target does not apply to digits", target="label")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".svm"])
def test_absent_file(tmp_path, suffix):
    rejected(tmp_path / f"absent{suffix}", f"absent{suffix}'", FileNotFoundError)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".svm", ".csv"])
@pytest.mark.parametrize(
    "content", [b"\x93\xff\x00 nonsense \xfe" * 9, b""], ids=["noise", "empty"]
)
def test_damaged_file(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    np.save(tmp_path / "y.npy", Y)
    rejected(path, f"bad{suffix}")


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_directory(self, tmp_path, suffix):
        data = load(idx_directory(tmp_path, suffix))
        assert data.X.shape == (6, 20)
        assert data.X.dtype == np.uint8
        assert data.X_test.shape == (2, 20)
        assert data.y.tolist() == [0, 1, 2, 0, 1, 2]
        assert data.image_shape == (4, 5)

    def test_directory_of_the_name_of_a_data_set(self, tmp_path):
        (tmp_path / "digits").mkdir()
        assert load(idx_directory(tmp_path / "digits")).image_shape == (4, 5)

    def test_missing_part(self, tmp_path):
        (idx_directory(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
        rejected(tmp_path, "no file t10k-labels?idx1?ubyte*", FileNotFoundError)

    def test_cut_off(self, tmp_path):
        path = idx_directory(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-9])
        rejected(tmp_path, "train-images-idx3-ubyte.gz' is damaged")

    def test_other_file(self, tmp_path):
        (idx_directory(tmp_path) / "train-images-idx3-ubyte").write_bytes(b"hello")
        rejected(tmp_path, "is damaged: it does not begin as an IDX file of bytes does")


class TestNpz:
    def test_all_parts(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=X.astype(np.uint8), y=Y, X_test=X[:2], y_test=Y[:2])
        data = load(tmp_path / "a.npz")
        assert data.X.dtype == np.uint8
        assert np.array_equal(data.X_test, X[:2])
        assert data.y_test.tolist() == [2, 0]
        assert data.name == "a.npz"

    def test_images_are_flattened(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", X=X.reshape(4, 3, 1), y=Y)
        data = load(tmp_path / "a.npz")
        assert np.array_equal(data.X, X)
        assert data.image_shape == (3, 1)

    def test_target_names_the_labels(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=X, kind=Y.astype(str))
        assert load(tmp_path / "a.npz", target="kind").y.tolist() == ["2", "0", "2", "1"]

    def test_labels_may_be_missing_at_prediction(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=X)
        assert load(tmp_path / "a.npz", n_features=3).y is None
        rejected(tmp_path / "a.npz", "has no array y; it has X")

    def test_wrong_content(self, tmp_path):
        path = tmp_path / "a.npz"

        def rejects(message, **arrays):
            np.savez(path, **arrays)
            rejected(path, message)

        rejects("has no array X; it has x, y", x=X, y=Y)
        rejects("has no array y_test", X=X, y=Y, X_test=X)
        rejects("X has 3 features, X_test has 2", X=X, y=Y, X_test=X[:, :2], y_test=Y)
        rejects("X has 4 rows, so y must have shape (4,), not (3,)", X=X, y=Y[:3])
        rejects("X must be a matrix", X=X[0], y=Y[:3])
        rejects("is empty: X has shape (0, 3)", X=X[:0], y=Y[:0])
        rejects("X must be numeric, its dtype is <U4", X=X.astype("U4"), y=Y)
        rejects("labels must be numbers or strings", X=X, y=Y + 1j)
        rejects("labels are missing (NaN) in 1 rows", X=X, y=np.asarray([0, 1, np.nan, 1]))
        rejects("labels must be classes, y has real numbers such as 2.5", X=X, y=Y + 0.5)
        rejects(
            "or Python objects, which are not read as they may run code", X=X.astype(object), y=Y
        )

    def test_array_with_the_wrong_suffix(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        (tmp_path / "a.npy").rename(tmp_path / "a.npz")
        rejected(tmp_path / "a.npz", "cannot be read as .npz")


class TestNpy:
    def test_labels_beside_it(self, tmp_path):
        np.save(tmp_path / "X.npy", X.astype(np.float16))
        np.save(tmp_path / "y.npy", Y)
        data = load(tmp_path / "X.npy")
        assert data.X.dtype == np.float16
        assert np.array_equal(data.y, Y)

    def test_target_names_their_file(self, tmp_path):
        np.save(tmp_path / "rows.npy", X)
        np.save(tmp_path / "kinds.npy", Y)
        rejected(tmp_path / "rows.npy", "y.npy' with the labels of rows.npy", FileNotFoundError)
        assert np.array_equal(load(tmp_path / "rows.npy", target=tmp_path / "kinds.npy").y, Y)
        assert load(tmp_path / "rows.npy", n_features=3).y is None
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "rows.npy", n_features=3, target=tmp_path / "kind.npy")


class TestCsv:
    @pytest.fixture
    def csv(self, tmp_path):
        def write(text: str, encoding: str = "utf-8") -> Path:
            (tmp_path / "a.csv").write_text(text, encoding=encoding)
            return tmp_path / "a.csv"

        return write

    def test_last_column_is_the_target(self, csv):
        data = load(csv("a,b,kind\n1.5,-2,yes\n3e2,4,no\n 0 ,7,yes\n"))
        assert data.X.tolist() == [[1.5, -2.0], [300.0, 4.0], [0.0, 7.0]]
        assert data.y.tolist() == ["yes", "no", "yes"]

    def test_target_by_name(self, csv):
        data = load(csv("kind,a,b\n1,2,3\n0,5,6\n"), target="kind")
        assert data.X.tolist() == [[2.0, 3.0], [5.0, 6.0]]
        assert data.y.tolist() == [1, 0]
        assert data.y.dtype == np.int64

    @pytest.mark.parametrize(
        ("text", "target", "y"),
        [
            ("1,2,3\n4,5,6\n", None, [3, 6]),
            ("1,2,3\n4,5,6\n", "0", [1, 4]),
            ("1,2,setosa\n4,5,virginica\n", None, ["setosa", "virginica"]),
            ("0,1,kind\n4,5,6\n7,8,9\n", None, [6, 9]),
            ("2019,2020,kind\n4,5,no\n7,8,yes\n", "kind", ["no", "yes"]),
            ("a,b,c\n4,5,yes\n", None, ["yes"]),
            ("2,1,0\n4,5,1\n", "2", [0, 1]),
        ],
        ids=[
            *("no header", "by number", "no header, words", "numbers on top", "named", "one row"),
            "a number that is a cell too",
        ],
    )
    def test_header_or_not(self, csv, text, target, y):
        assert load(csv(text), target=target).y.tolist() == y

    def test_a_missing_cell_makes_no_header(self, csv):
        with pytest.raises(ValueError, match="missing"):
            load(csv("0.5,NA,1\n2,3,0\n"))

    def test_text_as_spreadsheets_write_it(self, csv):
        text = '\ufeff"width","a, b","kind"\r\n"1","2","é, x"\r\n\r\n3,4,ü\r\n'
        data = load(csv(text), target="kind")
        assert data.X.tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert data.y.tolist() == ["é, x", "ü"]

    @pytest.mark.parametrize(
        ("texts", "dtype"), [("1 2", "int64"), ("1 2.0", "float64"), ("1 b", "<U1")]
    )
    def test_type_of_labels(self, csv, texts, dtype):
        first, second = texts.split()
        assert load(csv(f"a,b\n1,{first}\n2,{second}\n")).y.dtype == dtype

    def test_labels_may_be_missing_at_prediction(self, csv):
        path = csv("a,b\n1,2\n3,4\n")
        assert load(path, n_features=2).y is None
        assert load(path, n_features=2).X.tolist() == [[1, 2], [3, 4]]
        assert load(path, n_features=1).y.tolist() == [2, 4]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b,y\n1,2,0\n1,,1\n", "line 3: column 'b' has a missing value"),
            ("a,b,y\n1,2,0\n1,x y,1\n", "line 3: column 'b' has 'x y', features must be numbers"),
            ("a,b,y\n1,2,0\n1,nan,1\n", "column has missing values: b"),
            ("a,b,y\n1,2,0\n1,2,\n", "column has missing values: y"),
            ("a,b,y\n1,2,0\n1,2\n", "line 3: 2 columns where the first line has 3"),
            ("a,b,y\n1,2,0\n1,2,3,4\n", "line 3: 4 columns where the first line has 3"),
            ("a,b,y\n", "is empty"),
            ("", "is empty"),
            ("a;b;y\n1;2;0\n", "has semicolons between its columns, commas are expected"),
            ("y\n0\n1\n", "has one column, 'y'"),
            (",a,y\n0,1,0\n1,2,1\n", "column 1 has no name"),
            ("a,b,y\n1,2,0.5\n1,2,1.5\n", "labels must be classes"),
        ],
    )
    def test_bad_content(self, csv, text, message):
        rejected(csv(text), message)

    def test_unknown_column(self, csv):
        path = csv("a,b,y\n1,2,0\n")
        rejected(path, "has no column 'kind': its columns are a, b, y", target="kind")
        rejected(csv("a,a,y\n1,2,0\n"), "has 2 columns 'a'", target="a")
        wide = csv(",".join(f"c{j}" for j in range(1000)) + "\n" + ",".join("0" * 1000))
        rejected(wide, "c18, …, c999", target="kind")

    def test_other_encoding(self, csv):
        rejected(csv("a,y\n1,é\n", encoding="latin-1"), "is no text file in UTF-8")
        late = "a,y\n" + "1,x\n" * 100_000 + "1,é\n"
        rejected(csv(late, encoding="latin-1"), "is no text file in UTF-8")


class TestParquet:
    @pytest.fixture
    def parquet(self, tmp_path):
        def write(**columns) -> Path:
            pq.write_table(pa.table(columns), tmp_path / "a.parquet")
            return tmp_path / "a.parquet"

        return write

    def test_bytes_stay_bytes(self, parquet):
        data = load(
            parquet(a=pa.array([1, 2], pa.uint8()), b=pa.array([3, 4], pa.uint8()), y=[0, 1])
        )
        assert data.X.dtype == np.uint8
        assert data.X.tolist() == [[1, 3], [2, 4]]
        assert data.y.tolist() == [0, 1]

    def test_mixed_columns_and_named_target(self, parquet):
        path = parquet(kind=pa.array(["u", "v"]).dictionary_encode(), a=[0.5, 1.0], b=[True, False])
        data = load(path, target="kind")
        assert data.X.tolist() == [[0.5, 1.0], [1.0, 0.0]]
        assert data.y.tolist() == ["u", "v"]
        assert data.y.dtype.kind == "U"

    def test_row_index_of_pandas_is_left_out(self, parquet):
        data = load(parquet(a=[0.5, 1.0], y=[False, True], __index_level_0__=[7, 3]))
        assert data.X.tolist() == [[0.5], [1.0]]
        assert data.y.tolist() == [False, True]

    def test_labels_may_be_missing_at_prediction(self, parquet):
        assert load(parquet(a=[1.0], b=[2.0]), n_features=2).y is None

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": ["x", "z"], "y": [0, 1]}, "column 'a' is of type string"),
            ({"a": [1, None], "y": [0, 1]}, "column has missing values: a"),
            ({"a": [1.0, float("nan")], "y": [0, 1]}, "column has missing values: a"),
            ({"a": [1, 2], "y": [0, None]}, "column has missing values: y"),
            ({"a": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}, "is empty"),
            ({"a": [1, 2], "y": [[0], [1]]}, "labels must be numbers or strings"),
        ],
    )
    def test_bad_content(self, parquet, columns, message):
        rejected(parquet(**columns), message)

    def test_unknown_column(self, parquet):
        rejected(parquet(a=[1], y=[0]), "has no column 'kind': its columns are a, y", target="kind")

    def test_without_pyarrow(self, parquet, monkeypatch):
        path = parquet(a=[1], y=[0])
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        rejected(path, "pip install 'xplinear[parquet]'", ImportError)


class TestSvmlight:
    @pytest.fixture
    def svm(self, tmp_path):
        dump_svmlight_file(X, Y, str(tmp_path / "a.svm"), zero_based=False)
        return tmp_path / "a.svm"

    @pytest.mark.parametrize("suffix", [".svm", ".libsvm", ".svmlight"])
    def test_becomes_dense(self, svm, suffix):
        data = load(svm.rename(svm.with_suffix(suffix)))
        assert np.array_equal(data.X, X)
        assert data.y.tolist() == Y.tolist()
        assert data.y.dtype == np.int64

    def test_rows_are_padded_at_prediction(self, svm):
        assert load(svm, n_features=5, index_base=1).X.shape == (4, 5)

    def test_target_does_not_apply(self, svm):
        rejected(svm, "target does not apply", target="y")


class TestHoldout:
    def test_stratified_disjoint_and_reproducible(self):
        data = load("digits")
        split = holdout(data, 0.25, seed=1)
        assert split.X.shape[0] + split.X_test.shape[0] == 1797
        share = np.bincount(split.y_test) / np.bincount(data.y)
        assert np.all(np.abs(share - 0.25) < 0.01)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(split[:4], holdout(data, 0.25, seed=1)[:4], strict=True)
        )
        assert not np.array_equal(split.y_test, holdout(data, 0.25, seed=2).y_test)
        rows = np.unique(np.concatenate([split.X, split.X_test]), axis=0)
        assert np.array_equal(rows, np.unique(data.X, axis=0))

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
    def test_bad_fraction(self, fraction):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            holdout(load("digits"), fraction)

    def test_class_too_rare(self):
        data = Dataset(X, Y, None, None, "few", None)
        with pytest.raises(ValueError, match=r"cannot hold out 0\.5 of the 4 rows of few"):
            holdout(data, 0.5)
