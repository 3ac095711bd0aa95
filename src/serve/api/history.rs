//! Earlier turns as clients send them. A client cannot change them any more, so none is refused: what the model cannot
//! read becomes a few words in its place, and the client is told once.

use super::conversation::Said;
use super::notes::Notes;
use super::spot::Spot;
use crate::engine::chat::Call;
use crate::json::{Node, Value};

/// Between the parts of a content.
const BLANK_LINE: &str = "\n\n";

/// The name of a call that came without one.
const UNNAMED: &str = "unknown";

/// Characters of a client's own word that are repeated to it or to the model.
const WORD_CHARS: usize = 64;

/// A member that is a string; `None` when it is anything else.
pub fn string<'a>(at: &Node<'a>, name: &str) -> Option<&'a str> {
    member(at, name)?.text().ok()
}

/// A member of an object; `None` when it is missing, `null`, or this is no object.
pub fn member<'a>(at: &Node<'a>, name: &str) -> Option<Node<'a>> {
    at.get(name).ok().flatten()
}

/// The items of a member that is a list; none when it is anything else.
pub fn items<'a>(at: &Node<'a>, name: &str) -> Vec<Node<'a>> {
    let list = member(at, name).map(|node| node.items().map(Iterator::collect));
    list.and_then(Result::ok).unwrap_or_default()
}

/// A word of a client, short enough to be told.
pub fn word(text: &str) -> String {
    text.chars().take(WORD_CHARS).collect()
}

/// The text of the member `name`: a string, or a list of parts with blank lines between them.
pub fn content(at: &Node<'_>, name: &str, notes: &mut Notes) -> String {
    member(at, name).map_or(String::new(), |node| text(&node, notes))
}

/// The text of a content.
pub fn text(at: &Node<'_>, notes: &mut Notes) -> String {
    match at.items() {
        Err(_) => part(at, notes),
        Ok(parts) => {
            let texts = parts.map(|at| part(&at, notes));
            let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
            texts.join(BLANK_LINE)
        }
    }
}

/// The text of a part of a content.
pub fn part(at: &Node<'_>, notes: &mut Notes) -> String {
    match at.value() {
        Value::Null => String::new(),
        Value::Text(text) => text.clone(),
        Value::List(_) => text(at, notes),
        Value::Object(_) => block(at, notes),
        number_or_flag => number_or_flag.to_string(),
    }
}

/// The text of a part that says what it is.
fn block(at: &Node<'_>, notes: &mut Notes) -> String {
    let kind = string(at, "type").unwrap_or("text");
    let field = |name: &str| string(at, name).unwrap_or_default().to_owned();
    match kind {
        "refusal" => field("refusal"),
        "thinking" | "reasoning" | "redacted_thinking" => String::new(),
        "tool_reference" => field("tool_name"),
        "search_result" | "web_search_result" => {
            let found = [
                field("title"),
                field("source"),
                field("url"),
                content(at, "content", notes),
            ];
            let found: Vec<String> = found.into_iter().filter(|text| !text.is_empty()).collect();
            found.join("\n")
        }
        "document" => document(at, notes),
        "image" | "image_url" | "input_image" => left_out("image", notes),
        "input_audio" | "audio" => left_out("audio", notes),
        "video" | "video_url" | "input_video" => left_out("video", notes),
        "file" | "input_file" | "container_upload" => left_out("document", notes),
        // What is not known may still hold text: `text`, `input_text`, `output_text`, results of tools.
        other => match (member(at, "text"), member(at, "content")) {
            (Some(inner), _) | (None, Some(inner)) => text(&inner, notes),
            (None, None) if other.ends_with("text") => String::new(),
            (None, None) => left_out(&word(other), notes),
        },
    }
}

/// A document of Anthropic's, whose source may be text.
fn document(at: &Node<'_>, notes: &mut Notes) -> String {
    let Some(source) = member(at, "source") else {
        return left_out("document", notes);
    };
    let body = match string(&source, "type") {
        Some("text") => string(&source, "data").unwrap_or_default().to_owned(),
        Some("content") => content(&source, "content", notes),
        _ => return left_out("document", notes),
    };
    let title = string(at, "title").map(|title| format!("{title}\n"));
    title.unwrap_or_default() + &body
}

/// What the model sees in the place of the images that Ollama's clients send beside a text: behind it, a place for each.
pub fn images(at: &Node<'_>, notes: &mut Notes) -> String {
    let images = items(at, "images").into_iter();
    images
        .map(|_| BLANK_LINE.to_owned() + &left_out("image", notes))
        .collect()
}

/// What the model sees in the place of something it cannot read.
pub fn left_out(kind: &str, notes: &mut Notes) -> String {
    notes.add(format!("{kind}: left out, this model reads text only"));
    format!("[{kind}: not supported by this model]")
}

/// A call whose arguments are an object, its JSON in a string, nothing or anything else.
pub fn call(id: Option<&str>, name: Option<&str>, arguments: Option<Spot<'_>>) -> Call {
    let json = match &arguments {
        None => "",
        Some(spot) => spot.node.text().unwrap_or(spot.text),
    };
    let name = name.filter(|name| !name.is_empty()).unwrap_or(UNNAMED);
    Call::from_history(id.unwrap_or_default(), name, json)
}

/// What a tool gave; the model is to see that it failed.
pub fn result(body: String, failed: bool) -> String {
    let says_so = body
        .trim_start()
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("error"));
    match failed && !says_so {
        true => format!("Error: {body}"),
        false => body,
    }
}

/// What the model reasoned, under the names that clients send it back by. Some send the same text under two of them.
pub fn reasoning(message: &Node<'_>) -> String {
    let strings = ["reasoning_content", "reasoning", "thinking"];
    let strings = strings.iter().filter_map(|name| string(message, name));
    let lists = ["reasoning_details", "thinking_blocks"].map(|name| items(message, name));
    let parts = items(message, "content")
        .into_iter()
        .filter(|part| matches!(string(part, "type"), Some("thinking" | "reasoning")));
    let lists = lists.into_iter().chain([parts.collect()]);
    let mut found = strings.map(str::to_owned).chain(lists.map(joined));
    found.find(|text| !text.is_empty()).unwrap_or_default()
}

/// The texts of parts of reasoning.
fn joined(parts: Vec<Node<'_>>) -> String {
    let fields = ["thinking", "reasoning", "text"];
    let texts = parts
        .iter()
        .filter_map(|part| fields.iter().find_map(|name| string(part, name)));
    texts.collect()
}

/// Reasoning that a client left in the text of an answer, in its tags, moves to where it belongs.
pub fn split_reasoning(said: &mut Said) {
    if !said.reasoning.is_empty() {
        return;
    }
    let text = said.content.trim_start();
    let inside = text.strip_prefix("<think>");
    if let Some((reasoning, answer)) = inside.and_then(|rest| rest.split_once("</think>")) {
        (said.reasoning, said.content) =
            (reasoning.trim().to_owned(), answer.trim_start().to_owned());
    }
}
