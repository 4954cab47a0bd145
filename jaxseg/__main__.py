"""`python -m jaxseg` is the `jaxseg` command."""

import sys

from jaxseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
