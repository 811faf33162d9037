from tests.apps.app_contract import ImageAppContract


class TestContract(ImageAppContract):
    pass
