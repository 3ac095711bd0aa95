//! Tables on a terminal.

use super::cells::groups;
use super::read::Folder;
use super::tables::{self, MEMORY, SPEED, SYSTEM, Table, UNKNOWN};

/// The report's tables: all that the page tells in numbers.
pub fn report(folder: &Folder) -> String {
    let mut out = setting(folder);
    for group in groups(&folder.runs) {
        out += &format!("\n{}\n", plain(&group.title()));
        for cap in group.caps() {
            for (title, columns) in [
                ("speed", SPEED),
                ("memory, largest figures", MEMORY),
                ("system", SYSTEM),
            ] {
                out += &table(&tables::of_cap(&group, cap, title, &[columns]));
            }
        }
        out += &table(&tables::ledger(&group));
    }
    if !folder.skipped.is_empty() {
        out += &table(&tables::skipped(&folder.skipped));
    }
    out
}

/// Where the rows of a folder come from, on a line.
pub fn setting(folder: &Folder) -> String {
    let first = &folder.runs[0].row;
    let told = |text: &str| {
        if text.is_empty() {
            UNKNOWN.into()
        } else {
            plain(text)
        }
    };
    format!(
        "{}, commit {}, {} kernels, {} threads\n",
        told(&first.machine),
        told(&first.commit),
        told(&first.setup.kernels),
        first.setup.n_threads
    )
}

/// A table whose columns stand below each other: texts from the left, numbers from the right.
pub fn table(table: &Table) -> String {
    let names = table.heads.iter().map(|head| plain(&head.name));
    let units = table.heads.iter().map(|head| head.unit.to_string());
    let mut lines: Vec<Vec<String>> = vec![names.collect(), units.collect()];
    lines.retain(|line| line.iter().any(|field| !field.is_empty()));
    for line in &table.lines {
        let fields = line.iter().map(|field| match &field.small {
            Some(range) => format!("{} ({range})", plain(&field.text)),
            None => plain(&field.text),
        });
        lines.push(fields.collect());
    }
    let columns = 0..table.heads.len();
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.map(width).collect();
    let mut out = format!("\n{}\n", plain(&table.title));
    for line in &lines {
        let mut text = String::new();
        for ((field, head), width) in line.iter().zip(&table.heads).zip(&widths) {
            text += &match head.is_text {
                true => format!("  {field:<width$}"),
                false => format!("  {field:>width$}"),
            };
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

/// Nothing that a terminal would obey.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}
