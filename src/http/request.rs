//! A complete request.

/// What is asked for; methods besides these are refused with 501.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of RFC 9110 section 9 and RFC 5789
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    /// All of them with the names that stand in requests.
    pub const ALL: [(&'static str, Method); 7] = [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("PATCH", Method::Patch),
        ("DELETE", Method::Delete),
        ("OPTIONS", Method::Options),
    ];
}

/// A request with its whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// Of what: from the first `/` on, without percent-encoding; `*` for the server itself (`OPTIONS` only).
    pub path: String,
    /// What stands behind `?`, as it came; empty without one.
    pub query: String,
    /// The host as the client knows it, with its port; empty where it does not say.
    pub host: String,
    /// Whether the client speaks HTTP/1.1 and not 1.0.
    pub is_http_1_1: bool,
    /// Whether more requests may come on the connection.
    pub keep_alive: bool,
    /// The header fields in their order: names in lower case, values without the space around them.
    pub fields: Vec<(String, String)>,
    /// The body; empty without one.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header field of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All header fields of this name, which is given in lower case.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(n, _)| n == name);
        fields.map(|(_, value)| value.as_str())
    }
}
