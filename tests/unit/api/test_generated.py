"""Generated files are up to date, and the generator notices when they aren't."""

from __future__ import annotations

from pathlib import Path

import yaml

from sluice.api.generate import ROOT, generated, stale, write
from sluice.api.objects import KINDS
from sluice.api.reference import page


def test_the_generated_files_are_up_to_date() -> None:
    assert stale(ROOT) == [], "run python -m sluice.api.generate"


def test_writing_makes_missing_changed_and_left_over_files_right(tmp_path: Path) -> None:
    write(tmp_path)
    assert stale(tmp_path) == []
    missing, changed = tmp_path / "crds/topics.sluice.dev.yaml", tmp_path / "docs/reference/topic.md"
    left_over = tmp_path / "crds/queues.sluice.dev.yaml"
    missing.unlink()
    changed.write_text("edited by hand")
    left_over.write_text("of a kind that is no more")
    expected = sorted(path.relative_to(tmp_path) for path in (missing, changed, left_over))
    assert stale(tmp_path) == expected
    assert write(tmp_path) == expected
    assert stale(tmp_path) == []
    assert not left_over.exists()


def test_the_charts_copy_is_kept_on_uninstall_and_otherwise_the_same() -> None:
    files = generated()
    for kind in KINDS.values():
        name = f"{kind.plural}.sluice.dev.yaml"
        template = files[Path("helm/sluice/templates/crds") / name]
        lines = [line for line in template.splitlines() if not line.startswith("{{-")]
        body = yaml.safe_load("\n".join(lines).replace('{{ "{{" }}', "{{"))
        assert body["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert body == yaml.safe_load(files[Path("crds") / name])


def test_a_page_tells_type_default_limits_and_rules() -> None:
    text = page(KINDS["Topic"])
    row = next(line for line in text.splitlines() if line.startswith("| `partitions`"))
    assert row == (
        "| `partitions` | integer | `1` | Number of partitions. Can be raised, never lowered. "
        "(at least 1, at most 10000) |"
    )
    assert "| `clusterRef.name` | string | **required** |" in text
    assert '| `deletionPolicy` | `Retain` or `Delete` | `"Retain"` |' in text
    assert "- `spec`: partitions can't be lowered" in text
    assert "`conditions[].type`" in text
