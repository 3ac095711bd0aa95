//! The report as one page that needs nothing else: no script, no file, no network.

use super::cells::{Group, cap_name, groups, strategy_rank};
use super::charts::{Figure, class, figures};
use super::read::Folder;
use super::record::Json;
use super::row::Row;
use super::svg::{escape, mark};
use super::tables::{self, Field, Head, MEMORY, SPEED, SYSTEM, Table};
use crate::json::Value;
use std::collections::HashSet;

/// A page should not be larger.
pub const MOST_BYTES: usize = 2_000_000;

const STYLE: &str = include_str!("page.css");

/// What the raw rows at the end hold beside single figures.
struct Detail {
    /// In words.
    told: &'static str,
    /// Takes away what is not kept of a run with the median speed.
    cut: fn(&mut Row),
}

/// From all to nothing; the first that makes the page small enough is taken.
const DETAILS: [Detail; 4] = [
    Detail {
        told: "lists (tokens, series, sweeps, layers) of the run with the median decode speed of each cell only",
        cut: |_| {},
    },
    Detail {
        told: "lists (tokens, series, sweeps; not layers, for the size of this page) of the run with the median decode speed of each cell only",
        cut: |row| row.layers.clear(),
    },
    Detail {
        told: "lists (tokens; every eighth value of series and sweeps, no layers, for the size of this page) of the run with the median decode speed of each cell only",
        cut: |row| {
            row.layers.clear();
            for (_, column) in row.series.columns() {
                thin(column);
            }
            thin(&mut row.series.at_ms);
            thin(&mut row.sweeps.at_ms);
            thin(&mut row.sweeps.n_tokens);
        },
    },
    Detail {
        told: "no lists, for the size of this page",
        cut: cut_lists,
    },
];

fn thin(list: &mut Vec<u64>) {
    *list = list.iter().step_by(8).copied().collect();
}

fn cut_lists(row: &mut Row) {
    row.layers.clear();
    row.series = Default::default();
    row.sweeps = Default::default();
    row.times.token_ns.clear();
}

/// The page.
pub fn page(folder: &Folder) -> String {
    let groups = groups(&folder.runs);
    let mut body = opening(folder, &groups);
    for (i, group) in groups.iter().enumerate() {
        body += &section(group, i);
    }
    body += &closing(folder, &groups);
    let pages = DETAILS.iter().map(|detail| {
        let rows = raw(&groups, detail);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>infall: speed and memory</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\
             <h3>Raw rows</h3>\n<p>The source of this page holds every row as JSON in the element <code>rows</code>, with {}.</p>\n\
             <script type=\"application/json\" id=\"rows\">{rows}</script>\n</body>\n</html>\n",
            detail.told
        )
    });
    let mut last = String::new();
    for page in pages {
        last = page;
        if last.len() <= MOST_BYTES {
            break;
        }
    }
    last
}

/// Title, what ran where, and a list of the sections.
fn opening(folder: &Folder, groups: &[Group<'_>]) -> String {
    let first = &folder.runs[0].row;
    let told = |text: &str| match text {
        "" => tables::UNKNOWN.into(),
        text => escape(text),
    };
    let plural = if folder.runs.len() == 1 { "" } else { "s" };
    let mut out = format!(
        "<h1>infall: speed and memory of its strategies</h1>\n<p>{}<br>commit {}, {} kernels, {} threads, {} run{plural}</p>\n\
         <p class=\"soft\">One run: a new process reads the weights (load), goes through a prompt (prefill), then computes its most likely \
         tokens one by one (decode). Cold: nothing of the model was in memory before; warm: the same work was done once before in the same process. \
         All runs of one model gave the same tokens. Numbers are medians of the runs of a cell, smaller ones below them the least and the \
         most; {} is what is not known or was not run.</p>\n",
        told(&first.machine),
        told(&first.commit),
        told(&first.setup.kernels),
        first.setup.n_threads,
        folder.runs.len(),
        tables::UNKNOWN,
    );
    out += "<nav><ul>\n";
    for (i, group) in groups.iter().enumerate() {
        out += &format!(
            "<li><a href=\"#model-{i}\">{}</a></li>\n",
            escape(&group.title())
        );
    }
    out + "<li><a href=\"#rest\">What was not run, commands, raw rows</a></li>\n</ul></nav>\n"
}

/// All about a group.
fn section(group: &Group<'_>, number: usize) -> String {
    let row = group.row();
    let model = group.model();
    let mut out = format!(
        "<section>\n<h2 id=\"model-{number}\">{}</h2>\n<p class=\"soft\">{} GiB, {} layers of {} experts of which a token uses {}; \
         prompt of {} tokens, {} decoded, context {}; hash of the model {}, of the tokens {}</p>\n",
        escape(&group.title()),
        tables::number(model.bytes as f64 / (1u64 << 30) as f64),
        model.n_layer,
        model.n_expert,
        model.n_used,
        row.n_prompt,
        row.n_gen,
        row.setup.ctx,
        escape(&model.hash),
        escape(&row.token_hash),
    );
    let (first, others) = group
        .caps()
        .split_first()
        .map_or((None, Vec::new()), |(first, others)| {
            (*first, others.to_vec())
        });
    out += "<h3>Overview</h3>\n<p class=\"soft\">Δ: to baseline with the same budget. Hits, stall and the times p50, p95, p99 are of decode; memory is \
            the largest figure seen.</p>\n";
    out += &table(&tables::of_cap(group, first, "overview", &[SPEED, MEMORY]));
    out += &table(&tables::of_cap(
        group,
        first,
        "memory and the system",
        &[SYSTEM],
    ));
    for cap in others {
        out += &format!(
            "<details><summary>The same with a cap of {}</summary>\n{}{}</details>\n",
            cap_name(cap),
            table(&tables::of_cap(group, cap, "overview", &[SPEED, MEMORY])),
            table(&tables::of_cap(
                group,
                cap,
                "memory and the system",
                &[SYSTEM]
            ))
        );
    }
    let shown = group.shown();
    if let Some(cell) = shown.first() {
        out += &format!(
            "<p class=\"soft\">Pictures over time, by layer and by expert show one cell a strategy, that of the budget in the middle \
             ({}), and of it the run with the median decode speed.</p>\n",
            cap_name(cell.setup().cap_bytes)
        );
    }
    for one in figures(group) {
        out += &figure(&one);
    }
    out += "<h3>The ledger, and whether it was kept</h3>\n<p class=\"soft\">Before a run takes memory it says how much. Kept: the largest figure of \
            the process is at most 64 MiB above what was said, in the run of the cell where it was most.</p>\n";
    out += &table(&tables::ledger(group));
    out += "</section>\n";
    out
}

/// What was not run, all runs, and how to repeat them.
fn closing(folder: &Folder, groups: &[Group<'_>]) -> String {
    let mut out = String::from("<h2 id=\"rest\">What was not run, commands, raw rows</h2>\n");
    out += "<h3>What was not run, and why</h3>\n";
    out += &match folder.skipped.is_empty() {
        true => "<p>Nothing is noted.</p>\n".into(),
        false => table(&tables::skipped(&folder.skipped)),
    };
    let mut commands = String::new();
    let mut seen = HashSet::new();
    for cell in groups.iter().flat_map(|group| &group.cells) {
        for row in &cell.runs {
            let cap = row.setup.cap_bytes;
            if seen.insert((&row.command, cap)) {
                let by = match (cap, row.setup.cap_by.as_str()) {
                    (None, _) => String::new(),
                    (Some(_), "") => format!("   # cap {}", cap_name(cap)),
                    (Some(_), by) => format!("   # cap {} by {by}", cap_name(cap)),
                };
                commands += &escape(&(row.command.clone() + &by));
                commands.push('\n');
            }
        }
    }
    out += "<h3>Commands</h3>\n";
    out += &format!(
        "<details><summary>The command of each cell <small>({})</small></summary>\n<pre>{commands}</pre></details>\n",
        seen.len()
    );
    let runs = every_run(groups);
    out += &format!(
        "<details><summary>Every run <small>({})</small></summary>\n{}</details>\n",
        runs.lines.len(),
        table(&runs)
    );
    out
}

fn every_run(groups: &[Group<'_>]) -> Table {
    let number =
        |value: Option<f64>| Field::plain(value.map_or(tables::UNKNOWN.into(), tables::number));
    let line = |row: &&Row| {
        let setup = &row.setup;
        vec![
            Field::plain(&setup.strategy),
            Field::plain(&row.model.name),
            Field::plain(&setup.state),
            Field::plain(&setup.budget),
            Field::plain(cap_name(setup.cap_bytes)),
            Field::plain(setup.run.to_string()),
            number(tables::prefill(row)),
            number(tables::decode(row)),
            number(
                row.peaks
                    .rss_bytes
                    .map(|bytes| bytes as f64 / (1u64 << 30) as f64),
            ),
        ]
    };
    let cells = groups.iter().flat_map(|group| &group.cells);
    Table {
        title: "every run".into(),
        heads: vec![
            Head::text("strategy"),
            Head::text("model"),
            Head::text("state"),
            Head::text("budget"),
            Head::text("cap"),
            Head::number("run", ""),
            Head::number("prefill", "tokens/s"),
            Head::number("decode", "tokens/s"),
            Head::number("process (RSS)", "GiB"),
        ],
        lines: cells.flat_map(|cell| &cell.runs).map(line).collect(),
    }
}

/// All rows as JSON that may stand in a page.
fn raw(groups: &[Group<'_>], detail: &Detail) -> String {
    let cells = groups.iter().flat_map(|group| &group.cells);
    let rows = cells.flat_map(|cell| {
        let median = cell.median_run();
        cell.runs.iter().map(move |row| {
            // Figures follow from lists, so they are made before these go.
            let figures = row.figures().to_json();
            let mut kept = (*row).clone();
            match std::ptr::eq(*row, median) {
                true => (detail.cut)(&mut kept),
                false => cut_lists(&mut kept),
            }
            let mut value = kept.to_json();
            if let Value::Object(members) = &mut value {
                for (_, told) in members.iter_mut().filter(|(name, _)| name == "figures") {
                    *told = figures.clone();
                }
            }
            format!("\n{value}")
        })
    });
    format!("[{}\n]", rows.collect::<Vec<_>>().join(","))
}

/// A table in a box of its own, which scrolls.
fn table(table: &Table) -> String {
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>{}</caption>\n<thead><tr>",
        escape(&table.title)
    );
    for head in &table.heads {
        let class = if head.is_text { " class=\"text\"" } else { "" };
        out += &format!("<th scope=\"col\"{class}>{}", escape(&head.name));
        if !head.unit.is_empty() {
            out += &format!("<small>{}</small>", escape(head.unit));
        }
        out += "</th>";
    }
    out += "</tr></thead>\n<tbody>\n";
    let has_strategies = table.heads[0].name == "strategy";
    for line in &table.lines {
        out += "<tr>";
        for (i, (field, head)) in line.iter().zip(&table.heads).enumerate() {
            let text = escape(&field.text);
            if i == 0 {
                let sign = if has_strategies {
                    sign(&field.text)
                } else {
                    String::new()
                };
                out += &format!("<th scope=\"row\">{sign}{text}</th>");
                continue;
            }
            let class = match (head.is_text, field.text.as_str()) {
                (true, "no") => " class=\"text no\"",
                (true, text) if text.chars().count() > 32 => " class=\"text wrap\"",
                (true, _) => " class=\"text\"",
                (false, _) => "",
            };
            out += &format!("<td{class}>{text}");
            if let Some(range) = &field.small {
                out += &format!("<small>{}</small>", escape(range));
            }
            out += "</td>";
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// The mark of a strategy, as in the pictures.
fn sign(strategy: &str) -> String {
    format!(
        "<svg class=\"sign\" viewBox=\"-6 -6 12 12\" aria-hidden=\"true\"><path class=\"mark {}\" d=\"M0 0{}\"/></svg>",
        class(strategy),
        mark(strategy_rank(strategy))
    )
}

fn figure(figure: &Figure) -> String {
    let mut out = format!(
        "<figure>\n<h3>{}</h3>\n<figcaption>{}",
        escape(figure.title),
        escape(&figure.caption)
    );
    if figure.panels.is_empty() {
        out += " Nothing to show.";
    }
    out += "</figcaption>\n";
    if !figure.key.is_empty() && !figure.panels.is_empty() {
        out += "<ul class=\"key\">";
        for (class, text) in &figure.key {
            out += &format!(
                "<li><svg viewBox=\"0 0 14 14\" aria-hidden=\"true\"><rect class=\"shade {class}\" width=\"14\" height=\"14\"/></svg>{}</li>",
                escape(text)
            );
        }
        out += "</ul>\n";
    }
    out += "<div class=\"panels\">\n";
    for panel in &figure.panels {
        out += &format!("<div>{panel}</div>\n");
    }
    out + "</div>\n</figure>\n"
}
