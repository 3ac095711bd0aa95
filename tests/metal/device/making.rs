//! How objects are made that only the making of others needs: texts, options, constants.

use crate::{assert_breaches, check, raw_device};
use infall::backend::metal::messages;
use infall::backend::metal::objc::{self, Class, Id, Owned};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

/// `[class new]`
fn new(class: &CStr) -> Owned {
    let class = Class::named(class).unwrap();
    // SAFETY: a class that knows the message; the result is ours.
    unsafe { Owned::from_new(messages::object_class::new(class.id())) }.unwrap()
}

#[test]
fn function_constants_are_unsigned_numbers() {
    const UINT: usize = 33;
    const INT: usize = 29;
    let expected = [
        "function constant 0 has type 29",
        "function constant 4294967296, expected 65535",
    ];
    check(&expected, |_| {
        let values = new(c"MTLFunctionConstantValues");
        let value = std::ptr::from_ref(&7u32).cast::<c_void>();
        // SAFETY: a live object and a readable number.
        unsafe {
            messages::constant_values::set(values.id(), value, UINT, 65535);
            messages::constant_values::set(values.id(), value, INT, 0);
            messages::constant_values::set(values.id(), value, UINT, 1 << 32);
        }
    });
}

#[test]
fn kernels_are_compiled_with_exact_arithmetic() {
    let inexact = "without language version or exact arithmetic";
    check(&[inexact; 4], |_| {
        let device = raw_device();
        let compile = |set: &dyn Fn(Id)| {
            let options = new(c"MTLCompileOptions");
            set(options.id());
            let source = objc::string("").unwrap();
            let mut error = null_mut();
            // SAFETY: live objects, and room for an error.
            unsafe {
                let (device, source) = (device.id(), source.id());
                let library = messages::device::new_library_with_source(
                    device,
                    source,
                    options.id(),
                    &mut error,
                );
                assert!(Owned::from_new(library).is_some());
            }
        };
        // SAFETY: live options that know the messages.
        unsafe {
            use messages::compile_options::*;
            compile(&|o| {
                set_language_version(o, 3 << 16);
                set_math_mode(o, 0);
                set_math_functions(o, 1);
            });
            compile(&|_| ());
            compile(&|o| {
                set_math_mode(o, 0);
                set_math_functions(o, 1);
            });
            compile(&|o| {
                set_language_version(o, 3 << 16);
                set_math_mode(o, 1);
                set_math_functions(o, 1);
            });
            compile(&|o| {
                set_language_version(o, 3 << 16);
                set_math_mode(o, 0);
                set_math_functions(o, 0);
            });
        }
    });
}

#[test]
fn a_text_is_there() {
    check(
        &[
            "stringWithUTF8String: got no text",
            "+NSString has no method new",
        ],
        |_| {
            let class = Class::named(c"NSString").unwrap();
            // SAFETY: the class, which refuses both.
            unsafe {
                assert!(messages::string_class::from_utf8(class.id(), null()).is_null());
                assert!(messages::object_class::new(class.id()).is_null());
            }
        },
    );
}

#[test]
fn data_is_copied() {
    unsafe extern "C" {
        fn dispatch_data_create(
            bytes: *const c_void,
            len: usize,
            queue: *mut c_void,
            destructor: *const c_void,
        ) -> Id;
    }
    infall::backend::metal::sim::control::record();
    // SAFETY: no bytes; the device refuses what would leave them to a destructor.
    unsafe {
        assert!(
            dispatch_data_create(
                c"".as_ptr().cast(),
                0,
                null_mut(),
                std::ptr::without_provenance(16)
            )
            .is_null()
        );
    }
    assert_breaches(&["dispatch_data_create: only without queue and destructor"]);
}
