"""``python -m dit_lens.lab.training``."""

from dit_lens.lab.training.recipe import main

if __name__ == "__main__":  # the processes that training starts import this file as well
    main()
