"""`assay digest`: read digests into the store, search it, show an entry, write digests back."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Digests of arXiv papers: read them, search them, write them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _digest() -> None:
    """Digests of arXiv papers: read them, search them, write them."""
