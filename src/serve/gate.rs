//! Who is let in: names under which this machine is asked, and the key.

use super::api::auth;
use crate::http::Request;
use std::net::IpAddr;

/// The gate of a server.
pub struct Gate {
    /// Only this machine is served, and nobody needs a key.
    only_local: bool,
    key: Option<String>,
}

impl Gate {
    /// For a server at this address.
    pub fn new(ip: IpAddr, key: Option<String>) -> Gate {
        Gate {
            only_local: ip.is_loopback() && key.is_none(),
            key,
        }
    }

    /// Whether the client means this machine. A page from elsewhere whose name was made to point here does not: what it
    /// calls the server is its own name.
    pub fn is_for_us(&self, request: &Request) -> bool {
        !self.only_local || request.host.is_empty() || is_local(&request.host)
    }

    /// Whether the client shows the key, if one is needed.
    pub fn lets_in(&self, request: &Request) -> bool {
        self.key
            .as_ref()
            .is_none_or(|key| auth::shows(request, key))
    }
}

/// Whether a host, with or without a port, is this machine by the names that nobody else can have.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let is_name =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    is_name || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:8000",
            "127.1.2.3",
            "[::1]:80",
            "app.localhost",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org:8000",
            "192.168.0.1",
            "[::2]",
            "evillocalhost",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
