//! `infall report` as a user meets it: the page and its tables (`page`), what cannot be put together and how folders
//! compare (`folders`).
//!
//! The rows under `golden/report/rows` are runs of the shipped model, made with `infall bench --row` (the commands stand
//! in them). The page and the pictures beside them are compared byte for byte; after a wanted change
//! `INFALL_RENEW_GOLDEN=1 cargo test --test report` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod folders;
mod markup;
mod page;

use common::{Folder, golden, infall, succeeded};
use infall::report::row::Row;
use std::path::PathBuf;
use std::process::Output;

/// A folder with these rows.
fn folder_of(rows: &[Row]) -> Folder {
    let folder = Folder::new("rows");
    for (i, row) in rows.iter().enumerate() {
        folder.write(&format!("{i:04}.json"), row.text());
    }
    folder
}

fn golden_rows() -> PathBuf {
    golden("report/rows")
}

/// The files of the golden rows, in their order.
fn golden_texts() -> Vec<String> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(golden_rows())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    texts.collect()
}

fn rows() -> Vec<Row> {
    let texts = golden_texts();
    texts.iter().map(|text| Row::parse(text).unwrap()).collect()
}

fn report(args: &[&str]) -> Output {
    infall(&[&["report"], args].concat())
}

/// The page of a folder.
fn page(folder: &str) -> String {
    let out = Folder::new("page");
    let path = out.path("page.html");
    succeeded(&report(&[folder, "-o", path.to_str().unwrap()]));
    std::fs::read_to_string(path).unwrap()
}

/// What is printed.
fn printed(args: &[&str]) -> String {
    let output = report(args);
    succeeded(&output);
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a call that must fail with this exit code.
fn refused(args: &[&str], code: i32) -> String {
    let output = report(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty());
    said
}
