"""``python -m dit_lens.cli``."""

from dit_lens.cli import main

main()
