"""Write docs/configuration.md and docs/console.md from the tables of settings and commands: python docs/generate.py"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib.conf.manual import documentation  # noqa: E402
from lib.console import manual  # noqa: E402

(HERE / "configuration.md").write_text(documentation(), encoding="utf-8")
samples = manual.read_samples((HERE / "console.samples").read_text(encoding="utf-8"))
(HERE / "console.md").write_text(manual.documentation(samples), encoding="utf-8")
