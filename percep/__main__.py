"""`python -m percep`, which is also how `torchrun -m percep` starts it."""

import sys

from percep.cli.main import main

sys.exit(main())
