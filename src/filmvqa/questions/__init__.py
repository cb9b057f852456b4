"""Convert words to numbers: preprocessing, vocabulary, and the questions of a split."""
