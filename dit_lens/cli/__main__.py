"""``python -m dit_lens.cli``."""

from dit_lens.cli import main

if __name__ == "__main__":  # the processes that share a command's work import this file as well
    main()
