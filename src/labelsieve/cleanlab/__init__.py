"""The module tree of cleanlab, out of core: write ``labelsieve.`` before ``cleanlab`` in an import."""
