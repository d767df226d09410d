"""`python -m cocoa`, which is also what `torchrun -m cocoa` starts on every rank."""

from cocoa.cli import main

if __name__ == "__main__":
    main()
