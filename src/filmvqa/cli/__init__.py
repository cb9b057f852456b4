"""The scripts' command line: Hydra, errors on one line, and settings of the process.

No other room imports Hydra. The command line is part of the package, so that a launcher's jobs can
import it in other processes and on other machines.
"""

from filmvqa.cli.process import open_standard_streams, print_in_any_case, search_garbage_rarely

open_standard_streams()
search_garbage_rarely()
print_in_any_case()
