"""`python -m minilm.cli`."""

from minilm.cli import main

main(prog_name="minilm")
