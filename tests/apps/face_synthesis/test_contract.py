import shutil
from pathlib import Path

from tests.apps.app_contract import AppContract, succeed


class TestContract(AppContract):
    def test_a_model_without_a_record_needs_data(self, exported, refused, tmp_path):
        """Only to be scored: seeds draw faces without data."""
        shutil.copytree(exported / "edge", tmp_path / "moved/edge")
        says = ["moved/edge does not record", "add --data"]
        refused("evaluate", "--model", "moved/edge", says=says)
        out = succeed("face_synthesis", "predict", "--model", "moved/edge", 5)
        assert out.startswith("5\t")
        assert Path("runs/face_synthesis/predictions.png").exists()
