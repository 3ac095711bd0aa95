//! Unmodified clients against the server's APIs, where a folder of installed packages is named: see
//! scripts/clients/run.py.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;
#[path = "common/scripted.rs"]
mod scripted;

use infall::serve::api::Served;
use std::process::Command;

#[test]
fn clients_are_content() {
    let Some(folder) = std::env::var_os("INFALL_CLIENTS") else {
        eprintln!(
            "skipped: needs INFALL_CLIENTS, the folder of packages of `scripts/clients/run.py --install`"
        );
        return;
    };
    let served = Served {
        key: Some("secret".into()),
        ..scripted::served()
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/clients/run.py");
    scripted::serve(served, 2, |server| {
        let url = format!("http://{}", server.address);
        let mut command = Command::new("python3");
        command.args([script, "--scripted", "--key", "secret", "--url", &url]);
        command.arg("--folder").arg(folder);
        assert!(command.status().unwrap().success());
    });
}
