"""The docs agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

from pm_celery.conf import PmCelerySettings, Settings

ROOT = Path(__file__).parent.parent


def test_every_check_is_documented_and_none_besides() -> None:
    source = "".join(path.read_text() for path in (ROOT / "pm_celery").glob("*.py"))
    raised = set(re.findall(r'"(?:pm_celery\.)?([EW]0\d\d)"', source))

    documented = set(
        re.findall(r"`pm_celery\.([EW]0\d\d)`", (ROOT / "docs/reference/checks.md").read_text())
    )

    assert documented == raised


def test_every_setting_is_documented_with_its_type_and_default() -> None:
    keys = set(PmCelerySettings.__annotations__)

    documented = re.findall(
        r"^\| `([A-Z_]+)` \|", (ROOT / "docs/reference/settings.md").read_text(), re.M
    )

    assert set(documented) == keys == {name.upper() for name in Settings.__dataclass_fields__}
