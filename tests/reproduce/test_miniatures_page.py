"""docs/miniatures.md says of every claim what results/ has."""

import json

from denseclip.clip import load_clip
from denseclip.clip.pretrained import EMBEDDED
from tools.miniatures import PAGE, ROOT, page


def test_the_page_is_what_the_results_say():
    prints = {name: load_clip(name).fingerprint[:12] for name in EMBEDDED}
    made = page(ROOT / "results", prints, ("", "")).split("## Why some")[0]
    assert PAGE.read_text(encoding="utf-8").split("## Why some")[0] == made, "run python -m tools.miniatures"


def test_a_table_of_earlier_weights_says_so(tmp_path):
    table = json.loads((ROOT / "results" / "kspd-mini.json").read_text(encoding="utf-8"))
    (tmp_path / "kspd-mini.json").write_text(json.dumps(table))
    assert "earlier weights of tiny-rn" in page(tmp_path, {"tiny-rn": "0" * 12}, ("", ""))
    claim = table["claims"][0] | {"held": None}
    (tmp_path / "kspd-mini.json").write_text(json.dumps(table | {"claims": [claim, *table["claims"][1:]]}))
    assert claim["claim"] not in page(tmp_path, {}, ("", ""))
