//! Who is let in: names under which this machine is asked, and the key.

use super::api::auth;
use crate::http::Request;
use std::net::IpAddr;

/// Names by which containers know their host. The domain `internal` is kept for private use, so that a page from elsewhere
/// cannot have one of them.
const HOST_OF_CONTAINERS: [&str; 3] = [
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
];

/// The gate of a server.
pub struct Gate {
    /// Only this machine is served, and nobody needs a key.
    only_local: bool,
    key: Option<String>,
    /// More names of this machine.
    names: Vec<String>,
}

impl Gate {
    /// For a server at this address.
    pub fn new(ip: IpAddr, key: Option<String>, names: Vec<String>) -> Gate {
        Gate {
            only_local: ip.is_loopback() && key.is_none(),
            key,
            names,
        }
    }

    /// Whether the client means this machine. A page from elsewhere whose name was made to point here does not: what it
    /// calls the server is its own name.
    pub fn is_for_us(&self, request: &Request) -> bool {
        let name = name_of(&request.host);
        let is_ours = || self.names.iter().any(|own| own.eq_ignore_ascii_case(name));
        !self.only_local || request.host.is_empty() || is_local(name) || is_ours()
    }

    /// Whether the client shows the key, if one is needed.
    pub fn lets_in(&self, request: &Request) -> bool {
        self.key
            .as_ref()
            .is_none_or(|key| auth::shows(request, key))
    }
}

/// The name of a host without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

/// Whether a name is one of this machine that no one else can have.
fn is_local(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_name = name == "localhost" || name.ends_with(".localhost");
    is_name
        || HOST_OF_CONTAINERS.contains(&name.as_str())
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
            "host.docker.internal:8000",
        ] {
            assert!(is_local(name_of(host)), "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org:8000",
            "192.168.0.1",
            "[::2]",
            "evillocalhost",
            "docker.internal",
            "host.docker.internal.example.org",
            "",
        ] {
            assert!(!is_local(name_of(host)), "{host}");
        }
    }
}
