from __future__ import annotations

from xplinear.backends import machine


class TestMachine:
    def test_gpus_as_nvidia_smi_lists_them(self, monkeypatch, tmp_path):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 'Some GPU, 580.1, 8192 MiB'\n")
        program.chmod(0o755)
        monkeypatch.setattr(machine.shutil, "which", lambda _: str(program))
        gpu = {"name": "Some GPU", "driver": "580.1", "memory": "8192 MiB"}
        assert machine.machine()["gpus"] == [gpu]
        program.write_text("#!/bin/sh\nexit 9\n")  # installed, but no driver
        assert "gpus" not in machine.machine()

    def test_without_one(self, monkeypatch):
        monkeypatch.setattr(machine.shutil, "which", lambda _: None)
        assert "gpus" not in machine.machine()
