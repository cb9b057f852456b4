"""The web page: a picture, a question, the answer, and what the network did to give it."""
