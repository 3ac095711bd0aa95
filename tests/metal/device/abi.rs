//! The table of messages against the methods of the device.

use infall::backend::metal::messages::{self, Size};
use infall::backend::metal::objc::{Id, Sel};
use infall::backend::metal::sim::control;
use std::collections::BTreeSet;

/// A type of the table as the runtime encodes it.
fn encoded(rust: &str) -> &'static str {
    match rust {
        "" => "v",
        "Id" => "@",
        "Sel" => ":",
        "bool" => "B",
        "f64" => "d",
        "usize" | "u64" => "Q",
        "isize" => "q",
        "Size" => "{MTLSize=QQQ}",
        "*const c_char" => "*",
        "*mut c_void" | "*const c_void" => "^v",
        "*mut Id" | "*const Id" => "^@",
        other => panic!("no encoding of {other}"),
    }
}

#[test]
fn each_message_has_its_method_with_the_same_types_and_each_method_its_message() {
    let sent: BTreeSet<(String, String, String)> = messages::ALL
        .iter()
        .flat_map(|message| {
            let arguments: String = message.arguments.iter().map(|a| encoded(a)).collect();
            let types = format!("{}@:{arguments}", encoded(message.result));
            // `new` is inherited by each class it is sent to.
            let receivers = match message.receiver {
                "+NSObject" => &[
                    "+MTLCompileOptions",
                    "+MTLFunctionConstantValues",
                    "+MTLResidencySetDescriptor",
                ][..],
                other => &[other][..],
            };
            let line = |receiver: &&str| {
                (
                    receiver.to_string(),
                    message.selector.to_string(),
                    types.clone(),
                )
            };
            receivers.iter().map(line).collect::<Vec<_>>()
        })
        .collect();
    let known: BTreeSet<(String, String, String)> = control::methods()
        .into_iter()
        // A block is passed as an address, always nil.
        .map(|(class, selector, types)| {
            (
                class.to_string(),
                selector.to_string(),
                types.replace("@?", "^v"),
            )
        })
        .collect();
    let differ: Vec<_> = sent.symmetric_difference(&known).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// What arm64 does under the hood, as a type: on this machine the method finds other things where it looks for the sizes.
#[test]
fn a_structure_lowered_by_hand_is_seen() {
    crate::check(&["dispatch"], |bench| {
        let y = bench.tracked(&[0.0]);
        unsafe extern "C" {
            fn objc_msgSend();
            fn sel_registerName(name: *const std::ffi::c_char) -> Sel;
        }
        bench.run(true, |e| {
            bench.set(e, "add_one", 1, &[(&y, 0)]);
            let sizes = [1, 32].map(crate::size);
            let selector = c"dispatchThreadgroups:threadsPerThreadgroup:";
            // SAFETY: not sound, which is the point; the method reads what lies on the stack of this function's calls.
            unsafe {
                type ByAddress = unsafe extern "C" fn(Id, Sel, *const Size, *const Size);
                let send: ByAddress = std::mem::transmute(objc_msgSend as unsafe extern "C" fn());
                let encoder = *std::ptr::from_ref(e).cast::<Id>();
                send(
                    encoder,
                    sel_registerName(selector.as_ptr()),
                    &sizes[0],
                    &sizes[1],
                );
            }
        });
        assert_eq!(crate::values(&y), [0.0]);
    });
}

#[test]
fn objc_msgsend_is_never_variadic() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/metal");
    for file in ["objc.rs", "messages.rs", "api.rs"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            assert!(
                !line.contains("fn objc_msgSend(") || line.contains("fn objc_msgSend();"),
                "{file}: {line}"
            );
            assert!(!line.contains("..."), "{file}: {line}");
        }
    }
}
