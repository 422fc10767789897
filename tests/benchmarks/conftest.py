"""The size of the benchmarks: tiny unless ``--real-size`` is given."""


def pytest_addoption(parser):
    parser.addoption("--real-size", action="store_true", help="benchmark on inputs of gigabytes")
