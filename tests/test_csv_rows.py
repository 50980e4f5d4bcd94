"""Every table that a user gives is read one way, whatever separates its columns."""

from pathlib import Path

import pytest

from melano_tf.commands.predict.asked_inputs import read_list
from melano_tf.csv_rows import delimiter_of, read_rows
from melano_tf.dermoscopy.isic_tables import recognise
from melano_tf.errors import InputError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a,b;c,d\n", ","),
        ("a;b,c;d\n1,2,3,4,5,6\n", ";"),
        ("a\tb\n1,2,3\n", "\t"),
        ("a|b|c\n", "|"),
        ('"a,b,c,d";"e,f"\n', ";"),
        ("path\n1;2\n", ","),
        ("a,b;c\n", ","),
        ("", ","),
    ],
)
def test_the_header_tells_the_separator(text: str, wanted: str) -> None:
    assert delimiter_of(text) == wanted


@pytest.mark.parametrize("mark", list(",;\t|"))
def test_every_reader_finds_it(tmp_path: Path, mark: str) -> None:
    (tmp_path / "x.jpg").write_bytes(b"-")
    inputs = tmp_path / "inputs.csv"
    inputs.write_text("\ufeff" + mark.join(["path", "age", "site"]) + "\n\n" + mark.join(["x.jpg", " 51", ""]) + "\n")
    assert read_rows(inputs) == (["path", "age", "site"], [(3, ["x.jpg", "51", ""])])
    (row,) = read_list(inputs, ("age", "sex", "site"))
    assert (row["path"], row["age"], row["site"]) == (str(tmp_path / "x.jpg"), "51", "")
    table = tmp_path / "table.csv"
    table.write_text(mark.join(["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]) + "\n")
    assert recognise(table) == ("isic2018", "metadata")


def test_what_is_no_table_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for content, words in (
        (b"", "the first row is empty"),
        (b'a;b\n"1;2', "quote that is not closed"),
        (b"PK\x03\xff", "an Excel file"),
        ("a,ü\n".encode("latin-1"), "not UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_rows(path)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path)
