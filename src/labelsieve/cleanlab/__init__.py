"""The module tree of cleanlab (2.9) over Labelsieve: put `labelsieve.` before `cleanlab` in an import."""
