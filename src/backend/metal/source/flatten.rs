//! All files as one text: a library from source has no files to include.

use super::Fault;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The header that the device's compiler brings.
const STANDARD: &str = "<metal_stdlib>";

/// The sources of a folder: name and text, by name. Files that are neither `.metal` nor `.h` are left out.
///
/// Errors: the folder or a file cannot be read.
pub fn read_folder(folder: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|e| e == "metal" || e == "h");
        if let (true, Some(name)) = (is_source, path.file_name()) {
            let text = std::fs::read_to_string(&path)?;
            files.insert(name.to_string_lossy().into_owned(), text);
        }
    }
    Ok(files)
}

/// One text of all `.metal` files, each header before the first that includes it. `#line` keeps the places.
///
/// Errors: an `#include` of anything but `<metal_stdlib>` and the headers given.
pub fn flatten(files: &BTreeMap<String, String>) -> Result<String, Fault> {
    let mut text = format!("#include {STANDARD}\nusing namespace metal;\n");
    let mut done = BTreeSet::new();
    for name in files.keys().filter(|name| name.ends_with(".metal")) {
        append(files, name, &mut done, &mut text)?;
    }
    Ok(text)
}

fn append<'a>(
    files: &'a BTreeMap<String, String>,
    name: &'a str,
    done: &mut BTreeSet<&'a str>,
    text: &mut String,
) -> Result<(), Fault> {
    if !done.insert(name) {
        return Ok(());
    }
    text.push_str(&format!("#line 1 \"{name}\"\n"));
    for (i, line) in files[name].lines().enumerate() {
        let directive = line.trim();
        if let Some(included) = directive.strip_prefix("#include") {
            let included = included.trim();
            let header = included.trim_matches('"');
            if included != STANDARD {
                let Some((header, _)) = files
                    .get_key_value(header)
                    .filter(|_| header.ends_with(".h"))
                else {
                    return Err(Fault {
                        file: name.to_string(),
                        line: i + 1,
                        found: format!("#include {included}"),
                        expected: format!("{STANDARD} or a header of metal-shaders/"),
                    });
                };
                append(files, header, done, text)?;
            }
            text.push_str(&format!("#line {} \"{name}\"\n", i + 2));
        } else {
            // The text stands once, and is in the namespace from its start.
            let is_said_already =
                directive == "#pragma once" || directive == "using namespace metal;";
            text.push_str(if is_said_already { "" } else { line });
            text.push('\n');
        }
    }
    Ok(())
}
