import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts/parts_page.py"


def test_the_page_of_parts_is_complete_and_up_to_date(capsys):
    spec = importlib.util.spec_from_file_location("parts_page", SCRIPT)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.main(check=True) == 0, capsys.readouterr().err
