//! The official clients against the server's APIs, where a Python that has them is named: see scripts/clients.py.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;
#[path = "common/scripted.rs"]
mod scripted;

use infall::serve::api::Served;
use std::process::Command;

#[test]
fn the_official_clients_are_content() {
    let Some(python) = std::env::var_os("INFALL_CLIENTS_PYTHON") else {
        eprintln!(
            "skipped: needs INFALL_CLIENTS_PYTHON, a Python that has the packages openai and anthropic"
        );
        return;
    };
    let served = Served {
        key: Some("secret".into()),
        ..scripted::served()
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/clients.py");
    scripted::serve(served, 2, |server| {
        let url = format!("http://{}", server.address);
        let mut command = Command::new(python);
        command.args([script, "--scripted", "--key", "secret", "--url", &url]);
        assert!(command.status().unwrap().success());
    });
}
