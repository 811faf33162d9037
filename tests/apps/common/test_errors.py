from apps.common.errors import BadInput, ExportRefused


def test_bad_input_and_a_refused_export_end_with_different_statuses():
    assert BadInput.exit_status == 2
    assert ExportRefused.exit_status == 1
