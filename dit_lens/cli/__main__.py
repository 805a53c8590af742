from dit_lens.cli import main

main()
