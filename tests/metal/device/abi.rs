//! The table of messages against the list of methods, and the device's methods against both.

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

type Line = (String, String, String);

/// Receiver, selector and types of each message.
fn sent() -> BTreeSet<Line> {
    let messages = messages::ALL.iter();
    messages
        .map(|message| {
            let arguments: String = message.arguments.iter().map(|a| encoded(a)).collect();
            let types = format!("{}@:{arguments}", encoded(message.result));
            (message.receiver.into(), message.selector.into(), types)
        })
        .collect()
}

/// Receiver, selector and types of a line; a block is passed as an address, always nil.
fn line(receiver: &str, selector: &str, types: &str) -> Line {
    (receiver.into(), selector.into(), types.replace("@?", "^v"))
}

#[test]
fn each_message_is_in_the_list_with_the_same_types() {
    let listed: BTreeSet<Line> = include_str!("../selectors.txt")
        .lines()
        .filter(|text| !text.starts_with('#'))
        .map(|text| {
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(words.len(), 4, "{text}");
            line(words[0], words[1], words[2])
        })
        .collect();
    let sent = sent();
    let differ: Vec<&Line> = sent.symmetric_difference(&listed).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(
        messages::ALL.len(),
        sent.len(),
        "no message stands there twice"
    );
}

#[test]
fn the_device_has_a_method_for_each_message_and_no_other() {
    // `new` is inherited by the classes it is sent to.
    let made = [
        "+MTLCompileOptions",
        "+MTLFunctionConstantValues",
        "+MTLResidencySetDescriptor",
    ];
    let sent: BTreeSet<Line> = sent()
        .into_iter()
        .flat_map(|(receiver, selector, types)| match receiver.as_str() {
            "+NSObject" => made.map(|class| line(class, &selector, &types)).to_vec(),
            _ => vec![(receiver, selector, types)],
        })
        .collect();
    let known: BTreeSet<Line> = control::methods()
        .into_iter()
        .map(|(class, selector, types)| line(class, selector, types))
        .collect();
    let differ: Vec<&Line> = sent.symmetric_difference(&known).collect();
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
