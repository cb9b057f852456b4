"""Run ``python -m filmvqa <verb>`` like the installed program ``filmvqa``."""

from filmvqa.cli.programs import main

if __name__ == "__main__":
    main()
