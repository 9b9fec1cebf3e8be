"""Tables: one description, shown as aligned text and as escaped HTML."""

from __future__ import annotations

from swiftai_nb.core.table import Cell, Row, Table


def jobs(*rows: tuple[str, ...], **options: object) -> Table[tuple[str, ...]]:
    settings = {"columns": ("job", "size", "prompt"), "numeric": ("size",), **options}
    return Table(rows, cells=lambda row: row, **settings)  # type: ignore[arg-type]


def test_text_is_aligned_under_a_header_and_a_rule() -> None:
    lines = repr(jobs(("a1", "9 GB", "a fox"), ("b22", "12 GB", "owl"))).splitlines()
    assert lines == [
        "job   size  prompt",
        "------------------",
        "a1    9 GB  a fox",
        "b22  12 GB  owl",
    ]


def test_it_is_a_sequence_of_its_items() -> None:
    table = jobs(("a1", "9 GB", "a fox"), ("b2", "8 GB", "owl"))
    assert len(table) == 2
    assert table[-1] == ("b2", "8 GB", "owl")
    assert [row[0] for row in table] == ["a1", "b2"]
    assert table.rows() == [("a1", "9 GB", "a fox"), ("b2", "8 GB", "owl")]


def test_html_escapes_texts_links_titles_notes_and_header() -> None:
    table = Table(
        ["<i>"],
        cells=lambda text: (Cell(text, url='https://x/"y"', title="<t>"), text),
        columns=("<c>", "d"),
        title=("<a>", "<b>"),
        notes=("<n>",),
    )
    html = table._repr_html_()
    for raw in ("<i>", "<t>", "<c>", "<a>", "<n>", '"y"'):
        assert raw not in html
    assert 'href="https://x/&quot;y&quot;"' in html
    assert html.count("&lt;i&gt;") == 2


def test_html_names_no_color_so_that_it_fits_dark_themes() -> None:
    table = Table([1], cells=lambda _: Row(("a", "b"), is_dim=True), columns=("x", "y"), notes=("n",))
    assert "color" not in table._repr_html_()
    assert "opacity" in table._repr_html_()


def test_names_and_values_have_no_header_and_lines_break_inside_a_cell() -> None:
    table = Table([("memory", "4 GB\nTry: --quantize 4"), ("cloud", "no token")], cells=lambda line: line)
    assert repr(table).splitlines() == [
        "memory  4 GB",
        "        Try: --quantize 4",
        "cloud   no token",
    ]
    html = table._repr_html_()
    assert "4 GB<br>Try: --quantize 4" in html
    assert "<thead>" not in html
    assert html.count("<th ") == 2


def test_no_rows_show_the_text_for_empty() -> None:
    assert repr(jobs(empty="no jobs")) == "no jobs"
    assert jobs(empty="no <jobs>")._repr_html_() == "<p>no &lt;jobs&gt;</p>"
