"""Make the emoji corpus that ships with the package: python scripts/make_emoji_atlas.py [FOLDER OF TARBALLS]

Takes three npm packages (`npm pack` fetches them where the folder lacks them), checks their SHA-512, joins glyphs of
two artists with names, keywords and taxonomy, and writes `src/assay/data/image/emoji_atlas`: a PNG atlas an artist and
`concepts.json`. Same packages, same bytes, given one version of Pillow.

Left out: flags of countries and regions, skin tones (components and variants), letters and digits in boxes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

SIDE, COLUMNS = 32, 40
TARGET = Path(__file__).parents[1] / "src/assay/data/image/emoji_atlas"
ARTISTS = {"twitter": "emoji-datasource-twitter-16.0.0", "google": "emoji-datasource-google-16.0.0"}
WORDS = "openmoji-17.0.0"
SHA512 = {
    "emoji-datasource-twitter-16.0.0": "ec5fae0ae1c7fbb427adcd793f9b676ef2a483d13ab65ce2e0c9d3dae5b54653"
    "78a4b613cdae9c3ff76cb487d20ccb698c52d6b997b05a0f2305bb8bd9ec842d",
    "emoji-datasource-google-16.0.0": "6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
    "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc",
    "openmoji-17.0.0": "1019d8acd19d71dc3e3925e610d78d135c81351bbab4eada4e6a0ec946c99139"
    "af4fff97113a7c4592d2245cc3de5acf73937d0b3b323e7453934569e14688f7",
}
DROPPED = {"country-flag", "subdivision-flag", "skin-tone", "alphanum", "keycap"}


def package(folder: Path, name: str, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Files of an npm package whose paths begin as wanted; fetched where absent and checked by its digest."""
    file = folder / f"{name}.tgz"
    if not file.is_file():
        plain, _, version = name.rpartition("-")
        subprocess.run(["npm", "pack", "--silent", f"{plain}@{version}"], cwd=folder, check=True, stdout=sys.stderr)
    found = hashlib.sha512(file.read_bytes()).hexdigest()
    if found != SHA512[name]:
        sys.exit(f"{file.name}: SHA-512 is {found}, not the one recorded")
    files = {}
    with tarfile.open(file) as archive:
        for entry in archive:
            path = entry.name.removeprefix("package/")
            if entry.isfile() and path.startswith(wanted):
                opened = archive.extractfile(entry)
                assert opened is not None
                files[path] = opened.read()
    return files


def plain_code(code: str) -> str:
    """Code points without the variation selector, which the sources write or leave out at will."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def concepts(glyphs: list[dict], words: dict[str, dict[str, str]]) -> list[dict]:
    """Glyphs that both artists drew and that have words, in the order of the Unicode list."""
    rows = []
    for glyph in sorted(glyphs, key=lambda row: row["sort_order"]):
        told = words.get(plain_code(glyph["unified"]))
        if told is None or glyph["subcategory"] in DROPPED:
            continue
        if not (glyph["has_img_twitter"] and glyph["has_img_google"]):
            continue
        keywords = [word.strip().lower() for word in f"{told['tags']},{told['openmoji_tags']}".split(",")]
        rows.append(
            {
                "code": plain_code(glyph["unified"]),
                "name": told["annotation"],
                "keywords": list(dict.fromkeys(word for word in keywords if word)),
                "group": told["group"],
                "subgroup": told["subgroups"],
                "image": glyph["image"],
            }
        )
    return rows


def atlas(glyphs: dict[str, bytes], rows: list[dict]) -> Image.Image:
    """Glyphs of one artist, made small with premultiplied alpha, row by row."""
    sheet = Image.new("RGBA", (SIDE * COLUMNS, SIDE * -(-len(rows) // COLUMNS)))
    for i, row in enumerate(rows):
        glyph = Image.open(io.BytesIO(glyphs[row["image"]])).convert("RGBA").convert("RGBa")
        small = glyph.resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")
        sheet.paste(small, (SIDE * (i % COLUMNS), SIDE * (i // COLUMNS)))
    return sheet


def main(folder: Path) -> None:
    table = package(folder, WORDS, ("data/openmoji.csv",))["data/openmoji.csv"].decode()
    words = {plain_code(row["hexcode"]): row for row in csv.DictReader(io.StringIO(table))}
    TARGET.mkdir(exist_ok=True)
    rows: list[dict] = []
    for artist, name in ARTISTS.items():
        pictures = f"img/{artist}/64/"
        files = package(folder, name, ("emoji.json", pictures))
        rows = rows or concepts(json.loads(files["emoji.json"]), words)
        glyphs = {path.removeprefix(pictures): content for path, content in files.items()}
        atlas(glyphs, rows).save(TARGET / f"{artist}.png", optimize=True)
    lines = ",\n".join(json.dumps({key: row[key] for key in row if key != "image"}, ensure_ascii=False) for row in rows)
    (TARGET / "concepts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(rows)} concepts by {len(ARTISTS)} artists in {TARGET}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
