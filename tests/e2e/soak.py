"""Whether the run is `make soak`, which takes longer and asks for more."""

import os
from typing import Final

IS_SOAK: Final = os.environ.get("MODELYARD_SOAK") == "1"
