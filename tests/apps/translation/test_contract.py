from tests.apps.app_contract import TextAppContract


class TestContract(TextAppContract):
    pass
