//! What a path asks for. Clients are given an address with or without `/v1`, with a slash too many, or with the prefix of
//! the service they were written for; all of these mean the same.

use super::fault::Family;
use crate::http::Request;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whether the server can answer.
    Health,
    /// The list of models.
    Models,
    /// Any: whatever it is called, it is the one that is loaded.
    Model,
    /// What llama.cpp's clients ask of a server.
    Props,
    /// `chat/completions`
    Chat,
    /// `completions`
    Completions,
    /// `responses`
    Responses,
    /// Tokens of a request to `responses`.
    CountResponses,
    /// `messages`
    Messages,
    /// Tokens of a request to `messages`.
    CountMessages,
    /// The tokens of a text.
    Tokenize,
    /// The text of tokens.
    Detokenize,
    /// The prompt of a conversation, as text.
    ApplyTemplate,
    /// Ollama's `chat`.
    OllamaChat,
    /// Ollama's `generate`: a prompt.
    OllamaGenerate,
    /// The list of models as Ollama tells it.
    OllamaTags,
    /// The models in memory.
    OllamaRunning,
    /// What the model can do.
    OllamaShow,
    /// The version of Ollama's API.
    OllamaVersion,
    /// Something that other servers have and this one has not, and why.
    Absent(&'static str),
}

/// Prefixes under which other services have the same APIs, and `/v1` twice for a base address that has it already.
const PREFIXES: [&str; 5] = ["/anthropic", "/openai", "/api/v1", "/v1", "/v1"];

const NO_EMBEDDINGS: &str = "this model makes no embeddings";
const NOT_KEPT: &str = "no answers, files or batches are kept here";
const ONE_MODEL: &str = "the model was given when the server was started; here none can be pulled, made, copied or deleted";

impl Route {
    /// `None` for a path of none of the APIs.
    pub fn of(path: &str) -> Option<Route> {
        let path = canonical(path);
        Some(match path.as_str() {
            "/health" | "/healthz" | "/ping" => Route::Health,
            "/models" => Route::Models,
            "/props" => Route::Props,
            "/chat/completions" => Route::Chat,
            "/completions" => Route::Completions,
            "/responses" => Route::Responses,
            "/responses/input_tokens" => Route::CountResponses,
            "/messages" => Route::Messages,
            "/messages/count_tokens" => Route::CountMessages,
            "/tokenize" => Route::Tokenize,
            "/detokenize" => Route::Detokenize,
            "/apply-template" => Route::ApplyTemplate,
            "/api/chat" => Route::OllamaChat,
            "/api/generate" => Route::OllamaGenerate,
            "/api/tags" => Route::OllamaTags,
            "/api/ps" => Route::OllamaRunning,
            "/api/show" => Route::OllamaShow,
            "/api/version" => Route::OllamaVersion,
            "/api/embed" | "/api/embeddings" => Route::Absent(NO_EMBEDDINGS),
            "/api/pull" | "/api/push" | "/api/create" | "/api/copy" | "/api/delete" => {
                Route::Absent(ONE_MODEL)
            }
            path if path.starts_with("/api/blobs/") => Route::Absent(ONE_MODEL),
            "/embeddings" | "/rerank" | "/reranking" | "/embedding" => Route::Absent(NO_EMBEDDINGS),
            path if path.starts_with("/models/") => Route::Model,
            path if path.starts_with("/responses/") || path.starts_with("/messages/") => {
                Route::Absent(NOT_KEPT)
            }
            "/files" | "/batches" | "/threads" | "/conversations" => Route::Absent(NOT_KEPT),
            _ => return None,
        })
    }

    /// The methods, as a field `allow` names them.
    pub fn allowed(self) -> &'static str {
        match self {
            Route::Health
            | Route::Models
            | Route::Model
            | Route::Props
            | Route::OllamaTags
            | Route::OllamaRunning
            | Route::OllamaVersion => "GET, HEAD",
            _ => "POST",
        }
    }
}

/// The path without slashes that stand twice or at the end and without prefixes.
fn canonical(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let mut path: String = parts.flat_map(|part| ["/", part]).collect();
    for prefix in PREFIXES {
        let rest = path.strip_prefix(prefix);
        if let Some(rest) = rest.filter(|rest| rest.starts_with('/')) {
            path = rest.to_owned();
        }
    }
    path
}

/// In whose words a request is answered.
pub fn family(request: &Request) -> Family {
    match request.header("anthropic-version") {
        Some(_) => Family::Anthropic,
        None => family_of(&request.path),
    }
}

/// In whose words a path is answered.
pub fn family_of(path: &str) -> Family {
    match canonical(path) {
        path if path.starts_with("/messages") => Family::Anthropic,
        path if path.starts_with("/api/") => Family::Ollama,
        _ => Family::OpenAi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_clients_make_them() {
        for (paths, expected) in [
            (
                &[
                    "/v1/chat/completions",
                    "/chat/completions",
                    "//v1//chat/completions/",
                    "/v1/v1/chat/completions",
                    "/openai/v1/chat/completions",
                    "/api/v1/chat/completions",
                ][..],
                Some(Route::Chat),
            ),
            (
                &["/v1/messages", "/anthropic/v1/messages", "/v1/v1/messages/"],
                Some(Route::Messages),
            ),
            (
                &["/v1/models", "/models", "/v1/models/", "//models"],
                Some(Route::Models),
            ),
            (&["/v1/models/a/b", "/models/x"], Some(Route::Model)),
            (
                &["/v1/embeddings", "/api/embed", "/api/embeddings"],
                Some(Route::Absent(NO_EMBEDDINGS)),
            ),
            (
                &["/api/chat", "//api/chat/", "/v1/api/chat"],
                Some(Route::OllamaChat),
            ),
            (
                &["/api/pull", "/api/delete", "/api/blobs/sha256:0"],
                Some(Route::Absent(ONE_MODEL)),
            ),
            (
                &["/v1/responses/resp_1", "/v1/messages/batches", "/v1/files"],
                Some(Route::Absent(NOT_KEPT)),
            ),
            (
                &[
                    "/",
                    "",
                    "/v1",
                    "/v1/",
                    "/v1/chat",
                    "/api",
                    "/api/other",
                    "/metrics",
                    "/v1chat/completions",
                    "/v2/models",
                ],
                None,
            ),
        ] {
            for path in paths {
                assert_eq!(Route::of(path), expected, "{path}");
            }
        }
    }

    #[test]
    fn errors_are_told_as_the_path_has_them() {
        for (path, expected) in [
            ("/v1/chat/completions", Family::OpenAi),
            ("/api/v1/chat/completions", Family::OpenAi),
            ("/v1/messages/batches", Family::Anthropic),
            ("/api/chat", Family::Ollama),
            ("/api/other", Family::Ollama),
            ("", Family::OpenAi),
        ] {
            assert_eq!(family_of(path), expected, "{path}");
        }
    }
}
