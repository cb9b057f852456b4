"""Read pictures and recordings; write and read the features of a split."""
