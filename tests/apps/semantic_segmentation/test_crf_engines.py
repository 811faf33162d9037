from apps.common.release import size_mb
from apps.semantic_segmentation.export import crf_engines


def test_the_size_of_the_bundle_with_crf_counts_both_models(tmp_path):
    (tmp_path / "model.tflite").write_bytes(bytes(3 * 10**6))
    (tmp_path / "crf.tflite").write_bytes(bytes(10**6))
    engines = crf_engines(tmp_path / "run", tmp_path / "1", tmp_path)
    where, files = engines["model.tflite with crf.tflite"]
    assert where == tmp_path
    assert size_mb(files) == 4
