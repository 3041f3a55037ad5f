"""Write the dashboards: `python -m monitoring.grafana.generate [FOLDER]`.

The JSON is checked in, so that Grafana needs no build step; a test compares it with what this writes.
"""

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.grafana import batching, overview, resources

FOLDER: Final = Path(__file__).parent / "dashboards"


def generate(folder: Path) -> list[Path]:
    """Write every dashboard into `folder` and return the files."""
    boards = {"overview": overview.dashboard(), "batching": batching.dashboard(), "resources": resources.dashboard()}
    written = []
    for name, board in boards.items():
        path = folder / f"{name}.json"
        document = json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(document + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
