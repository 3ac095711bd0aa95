//! The backend's start and end on the device, with the kernels of `metal-shaders/`.

use infall::backend::Storage;
use infall::backend::metal::Metal;
use infall::backend::metal::sim::control;

/// Starts the backend, makes a buffer and ends, as often as it takes until what fails comes later; expects an error each
/// time before, and never a breach nor an object that is left. How often it failed.
fn fails_at_each(arm: fn(usize), expected: &str) -> usize {
    for n in 0..50 {
        control::record();
        arm(n);
        let error = Metal::new()
            .and_then(|mut metal| metal.buffer(3).map(drop))
            .err();
        assert_eq!(control::violations(), [""; 0], "at call {n}");
        assert_eq!(control::live(), [], "at call {n}: {error:?}");
        control::reset();
        let Some(error) = error.map(|e| e.to_string()) else {
            return n;
        };
        assert!(error.contains(expected), "at call {n}: {error}");
    }
    panic!("more than 50 calls");
}

#[test]
fn each_failure_of_the_start_is_an_error_and_leaves_nothing() {
    if !control::can_run() {
        return;
    }
    // The upload of the first dispatch and the scratch buffers, then the test's own.
    assert!(fails_at_each(control::fail_allocation, "refuses") >= 3);
    assert_eq!(
        fails_at_each(
            control::fail_pipeline,
            "Compiler encountered an internal error"
        ),
        1
    );
    assert_eq!(fails_at_each(control::fail_command_buffer, "GPU Hang"), 1);
}

#[test]
fn a_device_that_is_not_enough_is_refused() {
    if !control::can_run() {
        return;
    }
    control::record();
    control::set_limits(|limits| limits.has_device = false);
    let error = |why: &str| {
        let error = Metal::new().err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    };
    error("found no Metal device");
    control::set_limits(|limits| {
        limits.has_device = true;
        limits.family = 1006;
    });
    error("M1 or later");
    control::reset();
    // Without residency sets it does.
    control::record();
    control::set_limits(|limits| limits.macos_15 = false);
    drop(Metal::new().unwrap());
    assert_eq!(control::violations(), [""; 0]);
    assert_eq!(control::live(), []);
}
