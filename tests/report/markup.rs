//! Pages and pictures as a strict reader sees them, and the numbers in their tables.

use std::collections::{BTreeMap, HashSet};

/// Elements of a page or a picture, in the order of their opening tags: name and attributes.
pub type Elements = Vec<(String, BTreeMap<String, String>)>;

/// Reads markup strictly: every tag closed in order, attributes in double quotes and never twice, known entities only.
pub fn elements(text: &str) -> Elements {
    let void = ["meta", "br"];
    let raw = ["style", "script"];
    let (mut open, mut all): (Vec<String>, Elements) = (Vec::new(), Vec::new());
    let mut rest = text.strip_prefix("<!DOCTYPE html>\n").unwrap_or(text);
    while let Some(at) = rest.find('<') {
        plain_text(&rest[..at]);
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in order");
            continue;
        }
        let (tag, closed) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        let mut found = BTreeMap::new();
        while !attributes.trim().is_empty() {
            let (key, value) = attributes
                .split_once("=\"")
                .unwrap_or_else(|| panic!("<{tag}>"));
            let (value, after) = value.split_once('"').unwrap_or_else(|| panic!("<{tag}>"));
            plain_text(value);
            let twice = found.insert(key.trim().to_string(), value.to_string());
            assert!(twice.is_none() && !key.trim().is_empty(), "<{tag}>");
            attributes = after;
        }
        all.push((name.into(), found));
        if raw.contains(&name) {
            let end = rest.find(&format!("</{name}>")).expect("it ends");
            rest = &rest[end + name.len() + 3..];
        } else if !closed && !void.contains(&name) {
            open.push(name.into());
        }
    }
    plain_text(rest);
    assert!(open.is_empty(), "left open: {open:?}");
    all
}

/// Text that markup may hold: no brackets, entities that XML knows or numbers, no control characters.
fn plain_text(text: &str) {
    assert!(!text.contains(['<', '>']), "{text}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
    for part in text.split('&').skip(1) {
        let name = part.split(';').next().unwrap();
        assert!(
            ["amp", "lt", "gt", "quot", "#39"].contains(&name) && part.len() > name.len(),
            "&{part}"
        );
    }
}

/// The pictures of a page.
pub fn pictures(page: &str) -> Vec<&str> {
    let parts = page.split("<svg xmlns").skip(1);
    let starts =
        parts.map(|part| part.as_ptr() as usize - page.as_ptr() as usize - "<svg xmlns".len());
    starts
        .map(|start| {
            let end = page[start..].find("</svg>").unwrap();
            &page[start..start + end + "</svg>".len()]
        })
        .collect()
}

/// A page that is whole by itself, anonymous and sound.
pub fn check_page(page: &str) {
    let all = elements(page);
    for picture in pictures(page) {
        assert!(!elements(picture).is_empty());
    }
    let of = |key: &str| {
        let found = all.iter().filter_map(|(_, attributes)| attributes.get(key));
        found.cloned().collect::<Vec<String>>()
    };
    let ids: HashSet<String> = of("id").into_iter().collect();
    assert_eq!(ids.len(), of("id").len(), "an id stands once");
    for target in of("href") {
        assert!(ids.contains(target.strip_prefix('#').unwrap()), "{target}");
    }
    assert!(of("src").is_empty());
    let scripts = all.iter().filter(|(name, _)| name == "script");
    let types: Vec<_> = scripts.map(|(_, attributes)| &attributes["type"]).collect();
    assert_eq!(types, ["application/json"], "nothing runs");
    let handlers = all.iter().flat_map(|(_, attributes)| attributes.keys());
    assert!(!handlers.into_iter().any(|key| key.starts_with("on")));
    assert!(
        !all.iter()
            .any(|(name, _)| ["link", "img", "iframe", "object", "base"].contains(&name.as_str()))
    );
    let outside = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for word in [
        "http:",
        "https:",
        "url(",
        "@import",
        env!("CARGO_MANIFEST_DIR"),
    ] {
        assert!(!outside.contains(word), "{word}");
    }
}

/// The texts of a page's table with this caption: a line each, cells as they stand, smaller text behind a bar.
pub fn table(page: &str, caption: &str) -> Vec<Vec<String>> {
    let start = page
        .find(&format!("<caption>{caption}</caption>"))
        .expect("the table is there");
    let table = &page[start..start + page[start..].find("</table>").unwrap()];
    let lines = table.split("<tr>").skip(1);
    let cells = lines.map(|line| {
        let line = line.split("</tr>").next().unwrap();
        let cells = line.split("<t").skip(1).map(|cell| {
            let text = &cell[cell.find('>').unwrap() + 1..];
            let text = text.replace("<small>", "|").replace("</small>", "");
            let text = text.rsplit("</svg>").next().unwrap();
            text[..text.find("</t").unwrap()].to_string()
        });
        cells.collect::<Vec<String>>()
    });
    cells.collect()
}

/// Whether the digits that are shown are those of a number.
pub fn shows(shown: &str, expected: f64) {
    let plain = shown.replace(',', "");
    let digits = plain.split_once('.').map_or(0, |(_, digits)| digits.len());
    let found: f64 = plain
        .parse()
        .unwrap_or_else(|_| panic!("{shown} is no number"));
    let half = 0.5 * 10f64.powi(-(digits as i32));
    assert!(
        (found - expected).abs() <= half * 1.0001,
        "found {shown}, expected {expected}"
    );
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n % 2 == 1 {
        sorted[n / 2]
    } else {
        (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0
    }
}
