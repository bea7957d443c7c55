"""Files are complete or not there, where and how ``open`` would have put them."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import xplinear as xl
from xplinear import cli
from xplinear.formats.writing import check_writable, written

unix = pytest.mark.skipif(os.name == "nt", reason="modes, pipes and devices are those of Unix")
CLF = xl.LinearClassifier(random_state=0).fit(np.eye(3), ["a", "b", "c"])


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o000])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def save(path):
    CLF.save(path)


def to_onnx(path):
    pytest.importorskip("onnx")
    CLF.to_onnx(path)


@unix
@pytest.mark.parametrize("write", [save, to_onnx])
def test_the_mode_is_that_of_open(write, umask, tmp_path):
    path = tmp_path / "m"
    (tmp_path / "other").write_text("")
    write(path)
    assert mode_of(path) == mode_of(tmp_path / "other") == 0o666 & ~umask
    path.chmod(0o604)
    write(path)
    assert mode_of(path) == 0o604


@unix
def test_of_all_that_a_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        for command in (
            "train digits --max-iter=3 --out m.safetensors --plot m.png",
            "sweep digits --alphas=1,0.1 --cv=2 --max-iter=3 --out s.safetensors --plot s.svg",
            "predict m.safetensors digits --out p.csv",
            "predict m.safetensors digits --out p.tsv.gz --proba",
        ):
            result = CliRunner().invoke(cli.app, command.split())
            assert result.exit_code == 0, result.output
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert [mode_of(path) for path in files] == [0o640] * 6
    assert gzip.decompress((tmp_path / "p.tsv.gz").read_bytes()).startswith(b"label\t0\t1\t")


@unix
def test_links_pipes_and_devices(tmp_path):
    (tmp_path / "m").write_text("before")
    (tmp_path / "link").symlink_to("m")
    CLF.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert xl.load(tmp_path / "m").classes_.tolist() == ["a", "b", "c"]
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(
        target=lambda: found.append((tmp_path / "pipe").read_bytes()), daemon=True
    )
    reader.start()
    CLF.save(tmp_path / "pipe")
    reader.join()
    (tmp_path / "m").write_bytes(*found)
    assert xl.load(tmp_path / "m").coef_.tolist() == CLF.coef_.tolist()
    CLF.save(os.devnull)
    assert Path(os.devnull).is_char_device()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a device of Linux")
@pytest.mark.parametrize("write", [save, to_onnx])
def test_a_full_disk(write):
    with pytest.raises(OSError, match=r"^'/dev/full' cannot be written: No space left on device$"):
        write("/dev/full")


@pytest.mark.parametrize("write", [save, to_onnx])
def test_what_cannot_be_written(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no directory '.*missing.dir' for 'x'; make it"):
        write(tmp_path / "missing" / "dir" / "x")
    with pytest.raises(IsADirectoryError, match="is a directory; name a file"):
        write(tmp_path)
    for name in ("m.pkl", "m.csv", "m.joblib"):
        with pytest.raises(ValueError, match=rf"^'{name}' must end in \.(safetensors|onnx): the"):
            write(tmp_path / name)
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "absent" / "m")
    with pytest.raises(FileNotFoundError, match=r"^no directory '.*absent' for 'link'; make it"):
        write(tmp_path / "link")


def test_a_message_names_the_file_asked_for(tmp_path):
    with (
        pytest.raises(OSError, match=r"^'.*/m\.txt' cannot be written: No space left on device$"),
        written(tmp_path / "m.txt") as (outer,),
        written(outer),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_where_permission_is_missing(there, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    if there:
        path.write_text("")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anything
    with pytest.raises(PermissionError, match=r"m\.safetensors' cannot be written: permission"):
        check_writable(path)


def test_together_or_not_at_all(tmp_path):
    paths = [tmp_path / name for name in ("a.csv", "b.csv")]
    paths[0].write_text("before")

    def fail_after_both():
        with written(*paths, None) as (a, b, none):
            assert (a.suffix, none) == (".csv", None)
            a.write_text("new")
            b.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_both()
    assert paths[0].read_text() == "before"
    assert list(tmp_path.iterdir()) == paths[:1]
    with written(*paths) as (a, b):
        a.write_text("new")
        b.write_text("too")
        assert not paths[1].exists()
    assert [path.read_text() for path in paths] == ["new", "too"]
