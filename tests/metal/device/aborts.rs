//! Where breaches are not recorded, they end the program.

use crate::kernels;
use infall::backend::metal::api::{self, Device};
use infall::backend::metal::sim::control;
use std::process::Command;
use std::sync::Arc;

/// Runs a test of this file, which others skip, in a program of its own; its standard error.
fn dies(test: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let run = Command::new(program)
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .output()
        .unwrap();
    assert!(!run.status.success(), "{test} came to its end");
    String::from_utf8_lossy(&run.stderr).into_owned()
}

#[test]
#[ignore = "ends its program; run by the test below"]
fn commits_twice() {
    api::autorelease_pool(|| {
        let device = Device::system_default().unwrap();
        let commands = device.new_queue().unwrap().command_buffer().unwrap();
        commands.commit();
        commands.commit();
    });
}

#[test]
fn a_breach_ends_the_program_and_says_why() {
    let told = dies("aborts::commits_twice");
    assert!(
        told.contains("software metal: commit after the command buffer was committed"),
        "{told}"
    );
}

#[test]
#[ignore = "ends its program; run by the test below"]
fn reads_past_the_end() {
    control::set_kernels(Arc::new(kernels::Plain));
    api::autorelease_pool(|| {
        let bench = crate::Bench::new();
        let (x, y) = (bench.tracked(&[0.0; 4]), bench.tracked(&[0.0; 4]));
        bench.run(true, |e| bench.dispatch(e, "past", 4, &[(&x, 0), (&y, 0)]));
    });
}

#[test]
fn a_kernel_that_leaves_its_buffer_ends_the_program() {
    let told = dies("aborts::reads_past_the_end");
    let expected = "software metal: kernel past touches byte 16 of buffer 1, which has 16";
    assert!(told.contains(expected), "{told}");
}
