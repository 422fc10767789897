"""``cleanlab.experimental``, of which Labelsieve has `label_issues_batched`."""
