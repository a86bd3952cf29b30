//! Tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Row, Table, presets};
use serde::Serialize;

use super::failure::OutputClosed;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change
    #[default]
    Table,
    /// For programs; names are stable
    Json,
}

impl Format {
    /// Prints `value` as JSON or as `render` makes it.
    pub(super) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Table => print(&render(value)),
            Self::Json => print(&json(value, io::stdout().is_terminal())?),
        }
    }
}

/// A JSON document and a newline; compact takes one line.
pub(super) fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> anyhow::Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    Ok(text.context("making JSON of the answer")? + "\n")
}

/// Writes to the standard output at once; a reader that left ends the command in silence.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => result.context("writing to the standard output"),
    }
}

/// A column of a listing, by its heading.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// A listing without borders: headings, then the rows, columns two spaces apart.
pub(super) fn table<R: IntoIterator<Item = String>>(
    columns: &[Column],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(heading) | Column::Right(heading) => *heading,
    }));
    for row in rows {
        table.add_row(Row::from(row.into_iter().collect::<Vec<_>>()));
    }
    for (shown, column) in table.column_iter_mut().zip(columns) {
        shown.set_padding((0, 2));
        if matches!(column, Column::Right(_)) {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    finish(&table)
}

/// What is known of one object: a name and a value a line.
pub(super) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in fields {
        table.add_row(vec![name.to_owned(), value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    finish(&table)
}

fn finish(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_words_left_and_numbers_right_without_trailing_blanks() {
        let columns = [Column::Left("NAME"), Column::Right("BYTES"), Column::Left("NOTE")];
        let rows = [["a", "1", ""], ["longer", "12345678", "x y"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(&columns, rows),
            "NAME       BYTES  NOTE\n\
             a              1\n\
             longer  12345678  x y\n"
        );
        assert_eq!(table(&columns[..2], Vec::<Vec<String>>::new()), "NAME  BYTES\n");
    }

    #[test]
    fn fields_align_their_values() {
        let text = fields([("name", "a".to_owned()), ("addresses", "1,2".to_owned())]);
        assert_eq!(text, "name       a\naddresses  1,2\n");
    }

    #[test]
    fn json_is_one_line_unless_pretty() {
        assert_eq!(json(&[1], false).unwrap(), "[1]\n");
        assert_eq!(json(&[1], true).unwrap(), "[\n  1\n]\n");
    }
}
