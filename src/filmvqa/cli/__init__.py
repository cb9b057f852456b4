"""The command line of the scripts: Hydra, errors as one line, and settings of the process.

No other subpackage imports Hydra. The module is part of the package so that the jobs of a launcher,
in other processes or on other machines, can import it.
"""

from filmvqa.cli.process import open_standard_streams, print_in_any_case, search_garbage_rarely

open_standard_streams()
search_garbage_rarely()
print_in_any_case()
