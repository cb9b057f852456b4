"""``python -m filmvqa <verb>``, as the installed program ``filmvqa``."""

from filmvqa.cli.programs import main

if __name__ == "__main__":
    main()
