"""What the scripts share: Hydra, errors as one line, and settings of the process.

The only room that imports Hydra. It is part of the package so that jobs of a launcher, in other
processes or on other machines, can import it.
"""
