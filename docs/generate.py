"""Write docs/configuration.md from the table of settings: python docs/generate.py"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib.config import documentation  # noqa: E402

(HERE / "configuration.md").write_text(documentation(), encoding="utf-8")
