"""The web page: a picture, a question, the answer, and how the network computed it."""
