"""Pictures and recordings to feature files, and the features of a split."""
