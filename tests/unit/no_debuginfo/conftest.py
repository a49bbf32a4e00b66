import sys
from pathlib import Path

# What runs in a case is not part of the package; its readers need no drgn.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "Containerfile.d" / "files"))
