from tests.apps.app_contract import AppContract


class TestContract(AppContract):
    pass
